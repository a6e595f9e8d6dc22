//! Which events a sink takes, as a configuration says it.

mod literal;

use std::{borrow::Cow, collections::BTreeMap, fmt};

use forebay_actors::{
    condition::{Clause, Condition, Field, Glob, Number, Operand, PATTERN_BYTES, Pattern, Test},
    otlp::Signal,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

pub use self::literal::Literal;
use self::literal::{OneOrMany, one_or_many};

/// Which events a sink takes. Everything that is said has to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// How it came: one of these, or the only one.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<OneOrMany<WhenSignal>>")]
    pub signal: Option<Vec<WhenSignal>>,
    /// Who speaks: one of these, or the only one; `*` stands for any characters, `?` for one.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub service: Option<Vec<String>>,
    /// What has to hold of single fields: `message`, `metadata.level`, `resource.attributes.k8s.pod.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<BTreeMap<String, FieldTests>>,
    /// One of these has to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any: Option<Vec<Self>>,
    /// All of these have to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<Vec<Self>>,
    /// This must not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not: Option<Box<Self>>,
}

/// How an event came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenSignal {
    /// As an event: by HTTP, or in a batch over gRPC.
    Events,
    /// As a log record of OpenTelemetry.
    Logs,
    /// As a data point of OpenTelemetry.
    Metrics,
    /// As a span of OpenTelemetry.
    Traces,
}

/// What has to hold of a field: a value that it has to be, a list of which it has to be one, or tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct FieldTests(pub Tests);

/// Tests of a field's value, all of which have to hold. Without a value, or where it is null, only `ne` and
/// `exists: false` do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tests {
    /// It is this. A number is equal to a text that says the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eq: Option<Literal>,
    /// It is not this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ne: Option<Literal>,
    /// It is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#in: Option<Vec<Literal>>,
    /// It is there, or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// It is less than this number, or before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lt: Option<Literal>,
    /// It is this or less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lte: Option<Literal>,
    /// It is greater than this number, or behind this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gt: Option<Literal>,
    /// It is this or greater.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gte: Option<Literal>,
    /// The text has this in it; a list has it as an element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// The text has a place that matches this regular expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
}

/// What is wrong with a condition: where below `when`, and what.
pub type WhenProblem = (Vec<String>, String);

// === impl When ===

impl When {
    /// The condition that it says.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn condition(&self) -> Result<Condition, Vec<WhenProblem>> {
        let mut problems = Vec::new();
        let clause = self.clause(&mut Vec::new(), &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        Condition::new(clause).map_err(|why| vec![(Vec::new(), why)])
    }

    /// What its patterns may take in memory.
    pub fn memory_bytes(&self) -> u64 {
        let own =
            self.fields.iter().flatten().filter(|(_, FieldTests(tests))| tests.matches.is_some()).count();
        let inner = self.any.iter().flatten().chain(self.all.iter().flatten()).chain(self.not.as_deref());
        // The pattern, and the tables that it builds while it is used.
        own as u64 * 2 * PATTERN_BYTES as u64 + inner.map(Self::memory_bytes).sum::<u64>()
    }

    fn clause(&self, at: &mut Vec<String>, problems: &mut Vec<WhenProblem>) -> Clause {
        let Self { signal, service, fields, any, all, not } = self;
        let mut clauses = Vec::new();
        if let Some(signals) = signal {
            clauses.push(Clause::Signal(signals.iter().map(|signal| signal.of_otlp()).collect()));
        }
        if let Some(services) = service {
            clauses.push(Clause::Service(services.iter().map(|service| Glob::new(service)).collect()));
        }
        for (name, FieldTests(tests)) in fields.iter().flatten() {
            at.extend(["fields".to_owned(), name.clone()]);
            match Field::parse(name) {
                Ok(field) => {
                    let tests = tests.tests(&field, at, problems);
                    clauses.push(Clause::Field(field, tests));
                }
                Err(why) => problems.push((at.clone(), why)),
            }
            at.truncate(at.len() - 2);
        }
        let mut list = |key: &str, whens: &[Self]| {
            let clause = |(index, when): (usize, &Self)| {
                at.extend([key.to_owned(), index.to_string()]);
                let clause = when.clause(at, problems);
                at.truncate(at.len() - 2);
                clause
            };
            whens.iter().enumerate().map(clause).collect()
        };
        clauses.extend(any.as_ref().map(|whens| Clause::Any(list("any", whens))));
        clauses.extend(all.as_ref().map(|whens| Clause::All(list("all", whens))));
        if let Some(not) = not {
            at.push("not".to_owned());
            clauses.push(Clause::Not(not.clause(at, problems).into()));
            at.pop();
        }
        self.emptiness(at, problems);
        match clauses.pop() {
            Some(only) if clauses.is_empty() => only,
            last => Clause::All(clauses.into_iter().chain(last).collect()),
        }
    }

    /// What says nothing, which nobody can have meant.
    fn emptiness(&self, at: &[String], problems: &mut Vec<WhenProblem>) {
        let mut empty = |key: Option<&str>, why: &str| {
            let path = at.iter().map(String::as_str).chain(key).map(str::to_owned).collect();
            problems.push((path, why.to_owned()));
        };
        if *self == Self::default() {
            empty(
                None,
                "says nothing, so every event would do; leave it away, or say signal, service, fields, any, all or not",
            );
        }
        let lists = [
            ("signal", self.signal.as_ref().map(Vec::len)),
            ("service", self.service.as_ref().map(Vec::len)),
            ("fields", self.fields.as_ref().map(BTreeMap::len)),
            ("any", self.any.as_ref().map(Vec::len)),
            ("all", self.all.as_ref().map(Vec::len)),
        ];
        for (key, _) in lists.iter().filter(|(_, length)| *length == Some(0)) {
            empty(Some(key), "is empty; leave it away, or say what it should be");
        }
    }
}

impl WhenSignal {
    fn of_otlp(self) -> Option<Signal> {
        match self {
            Self::Events => None,
            Self::Logs => Some(Signal::Logs),
            Self::Metrics => Some(Signal::Metrics),
            Self::Traces => Some(Signal::Traces),
        }
    }
}

// === impl Tests ===

impl Tests {
    fn tests(&self, field: &Field, at: &[String], problems: &mut Vec<WhenProblem>) -> Vec<Test> {
        let mut problem = |key: &str, why: String| {
            problems.push((at.iter().cloned().chain([key.to_owned()]).collect(), why));
        };
        let mut tests = Vec::new();
        let same = [("eq", &self.eq, Test::Equals as fn(Operand) -> Test), ("ne", &self.ne, Test::Differs)];
        for (key, literal, test) in same {
            match literal.as_ref().map(|literal| literal.operand(field)).transpose() {
                Ok(operand) => tests.extend(operand.map(test)),
                Err(why) => problem(key, why),
            }
        }
        if let Some(literals) = &self.r#in {
            match literals.iter().map(|literal| literal.operand(field)).collect::<Result<Vec<_>, _>>() {
                Ok(operands) if operands.is_empty() => {
                    problem("in", "is empty, so nothing would do".to_owned())
                }
                Ok(operands) => tests.push(Test::OneOf(operands)),
                Err(why) => problem("in", why),
            }
        }
        tests.extend(self.exists.map(Test::Exists));
        let ordered = [
            ("lt", &self.lt, Test::Less as fn(Operand) -> Test),
            ("lte", &self.lte, Test::LessOrEqual),
            ("gt", &self.gt, Test::Greater),
            ("gte", &self.gte, Test::GreaterOrEqual),
        ];
        for (key, literal, test) in ordered {
            match literal.as_ref().map(|literal| literal.ordered(field)).transpose() {
                Ok(operand) => tests.extend(operand.map(test)),
                Err(why) => problem(key, why),
            }
        }
        for (key, text) in [("contains", &self.contains), ("matches", &self.matches)] {
            if text.is_some() && field.is_time() {
                problem(
                    key,
                    "is asked of a text, and this is a time; there are eq, ne, in, lt, lte, gt, gte"
                        .to_owned(),
                );
            }
        }
        tests.extend(self.contains.as_ref().map(|text| Test::Contains(text.as_str().into())));
        match self.matches.as_deref().map(Pattern::new).transpose() {
            Ok(pattern) => tests.extend(pattern.map(Test::Matches)),
            Err(why) => problem("matches", why),
        }
        if *self == Self::default() {
            problems.push((
                at.to_vec(),
                "asks nothing; give it a value, a list, or tests as { gte: 500 }".to_owned(),
            ));
        }
        tests
    }
}

impl JsonSchema for FieldTests {
    fn schema_name() -> Cow<'static, str> {
        "FieldTests".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (one, tests) = (generator.subschema_for::<Literal>(), generator.subschema_for::<Tests>());
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }, tests] })
    }
}

// === impl Deserialize ===
//
// By hand where several forms may stand: serde's untagged ones would lose what is wrong, and where.

impl<'de> Deserialize<'de> for FieldTests {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TestsVisitor;

        fn equal<E: Error>(literal: Literal) -> Result<FieldTests, E> {
            Ok(FieldTests(Tests { eq: Some(literal), ..Tests::default() }))
        }

        impl<'de> Visitor<'de> for TestsVisitor {
            type Value = FieldTests;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, a list of values, or tests like { gte: 500 }")
            }

            fn visit_bool<E: Error>(self, truth: bool) -> Result<FieldTests, E> {
                equal(Literal::Truth(truth))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<FieldTests, E> {
                equal(Literal::Number(Number::Whole(number.into())))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<FieldTests, E> {
                equal(Literal::Number(Number::Whole(number.into())))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<FieldTests, E> {
                equal(Literal::Number(Number::Decimal(number)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<FieldTests, E> {
                equal(Literal::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<FieldTests, A::Error> {
                let list = Vec::deserialize(SeqAccessDeserializer::new(items))?;
                Ok(FieldTests(Tests { r#in: Some(list), ..Tests::default() }))
            }

            fn visit_map<A: MapAccess<'de>>(self, tests: A) -> Result<FieldTests, A::Error> {
                Tests::deserialize(MapAccessDeserializer::new(tests)).map(FieldTests)
            }
        }

        from.deserialize_any(TestsVisitor)
    }
}
