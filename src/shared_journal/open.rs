//! Opening: the connection, the stream, and whether it is one that loses nothing.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use async_nats::jetstream::{
    self, Context, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType},
};
use forebay_actors::{
    journal::{JournalError, stored_form},
    runtime::clock::{Clock, seed},
    state::Books,
};

use super::{
    ASK_WAIT, JetStream, MESSAGE_BYTES, MESSAGE_SLACK_BYTES, OwnRuntime, Shared, SharedBooks,
    connect::connect, identity, watch,
};
use crate::{
    config::{BufferConfig, JetstreamConfig},
    destination,
};

/// How long the stream knows a message that is sent again: far longer than a commit tries.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

impl JetStream {
    /// Connects, makes the stream where it is missing, and begins to watch it. Blocks; on any thread.
    ///
    /// # Errors
    /// Where the server cannot be reached or refuses, or its stream would lose events.
    pub fn open(
        buffer: &BufferConfig,
        event_bytes_max: usize,
        quarantine: &Path,
        clock: Clock,
    ) -> Result<Self, JournalError> {
        let config = buffer.jetstream.clone();
        let server = config.url.clone();
        let failed = |reason: String| JournalError::Server { server: server.clone(), reason };
        let runtime = OwnRuntime::new().map_err(failed)?;
        let (opened, bytes_max) = (config.clone(), buffer.max_bytes);
        let opened = runtime.wait(async move {
            let (context, message_bytes) = reach(&opened, event_bytes_max).await?;
            let info = match find(&context, &opened.stream).await? {
                Some(info) => info,
                None => make(&context, &opened, bytes_max).await?,
            };
            suits(&info, &opened).map_err(|wrong| not_suited(&opened, &wrong))?;
            tell_differences(&info, &opened, bytes_max);
            let stream = context.get_stream_no_info(&opened.stream).await;
            let stream = stream.map_err(|e| destination::chain(&e))?;
            Ok::<_, String>((stream, context, info, message_bytes))
        });
        let opened = opened.unwrap_or_else(|| Err("opening the journal panicked".to_owned()));
        let (stream, context, info, message_bytes) = opened.map_err(failed)?;
        let shared = Arc::new(Shared {
            context,
            stream,
            config,
            server,
            clock,
            created: info.created.unix_timestamp_nanos(),
            replicas: info.config.num_replicas,
            message_bytes,
            nonce: seed(),
            written: AtomicU64::new(0),
            seen: Mutex::default(),
            floors: Mutex::new(VecDeque::new()),
            events_seen: AtomicU64::new(0),
            messages_seen: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            quarantine: quarantine.to_owned(),
            is_another: AtomicBool::new(false),
        });
        let journal = Self { shared: shared.clone(), runtime };
        let first = shared.clone();
        journal.ask(async move { watch::look(&first).await })?;
        journal.runtime.handle.spawn(watch::watch(shared));
        Ok(journal)
    }
}

/// Whether the journal could be opened, and what it holds; changes nothing. Blocks; on any thread.
///
/// # Errors
/// Why not.
pub fn examine(config: &JetstreamConfig, event_bytes_max: usize) -> Result<String, String> {
    let config = config.clone();
    let looked = OwnRuntime::new()?.wait(async move {
        let (context, _) = reach(&config, event_bytes_max).await?;
        let Some(info) = find(&context, &config.stream).await? else {
            return Ok(format!("the stream {} is not there yet; it will be made", config.stream));
        };
        suits(&info, &config).map_err(|wrong| not_suited(&config, &wrong))?;
        let (messages, mib) = (info.state.messages, info.state.bytes.div_ceil(1 << 20));
        let replicas = info.config.num_replicas;
        let stream = &config.stream;
        Ok::<_, String>(format!("the stream {stream}: {messages} messages, {mib} MiB, {replicas} replicas"))
    });
    looked.unwrap_or_else(|| Err("it panicked".to_owned()))
}

/// What the books of what is held say, which nobody has to have open; `None` where there is no stream. Changes nothing. Blocks;
/// on any thread.
///
/// # Errors
/// Why they cannot be read.
pub fn with_books<T>(
    config: &JetstreamConfig,
    event_bytes_max: usize,
    see: impl FnOnce(&dyn Books) -> T,
) -> Result<Option<T>, String> {
    let (runtime, opened) = (OwnRuntime::new()?, config.clone());
    let reached = runtime.wait(async move {
        let (context, _) = reach(&opened, event_bytes_max).await?;
        let info = find(&context, &opened.stream).await?;
        Ok::<_, String>(info.map(|info| (context, info)))
    });
    let reached = reached.unwrap_or_else(|| Err("it panicked".to_owned()))?;
    let Some((context, info)) = reached else { return Ok(None) };
    let stream = identity(&config.stream, info.created.unix_timestamp_nanos());
    let replicas = info.config.num_replicas;
    let books = SharedBooks::new(context, runtime.handle.clone(), config, stream, replicas);
    books.open(false).map_err(|e| e.to_string())?;
    Ok(Some(see(&*books)))
}

/// Connects, and says how large a message may be.
async fn reach(config: &JetstreamConfig, event_bytes_max: usize) -> Result<(Context, usize), String> {
    let client = connect(config).await?;
    let payload_max = client.server_info().max_payload;
    let needed = event_bytes_max + MESSAGE_SLACK_BYTES;
    if payload_max < needed {
        return Err(format!(
            "it takes messages of at most {payload_max} bytes, and an event of http.max_event_bytes needs {needed}; \
             set max_payload of the server to that, or http.max_event_bytes to {} at most",
            payload_max.saturating_sub(MESSAGE_SLACK_BYTES)
        ));
    }
    let message_bytes =
        MESSAGE_BYTES.min(payload_max - stored_form::OVERHEAD_BYTES - MESSAGE_SLACK_BYTES / 2);
    let mut context = jetstream::new(client);
    context.set_timeout(ASK_WAIT);
    let account = context.query_account().await;
    account.map_err(|error| format!("JetStream cannot be used: {}", destination::chain(&error)))?;
    Ok((context, message_bytes))
}

/// The stream of this name, where it is there.
pub(super) async fn find(context: &Context, name: &str) -> Result<Option<Info>, String> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(format!("the stream {name}: {}", destination::chain(&error))),
        },
    }
}

async fn make(context: &Context, config: &JetstreamConfig, bytes_max: u64) -> Result<Info, String> {
    let wanted = Config {
        name: config.stream.clone(),
        subjects: vec![config.subject()],
        description: Some("The journal of Forebay: a record in each message.".to_owned()),
        storage: StorageType::File,
        num_replicas: config.replicas,
        max_bytes: i64::try_from(bytes_max).unwrap_or(i64::MAX),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        duplicate_window: DUPLICATE_WINDOW,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_message_size: -1,
        ..Config::default()
    };
    match context.create_stream(wanted).await {
        Ok(stream) => {
            tracing::info!(
                stream = config.stream,
                replicas = config.replicas,
                "the journal's stream was made"
            );
            Ok(stream.cached_info().clone())
        }
        // Another process was quicker.
        Err(error) => match (error.kind(), find(context, &config.stream).await) {
            (CreateStreamErrorKind::JetStream(_), Ok(Some(info))) => Ok(info),
            _ => Err(format!(
                "the stream {} with {} replicas cannot be made: {}",
                config.stream,
                config.replicas,
                destination::chain(&error)
            )),
        },
    }
}

/// What of a stream that is there would lose events, or keep Forebay from using it.
fn suits(info: &Info, config: &JetstreamConfig) -> Result<(), Vec<String>> {
    let (stream, subject) = (&info.config, config.subject());
    let mut wrong = loses(stream);
    let mut want = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    want(stream.subjects == [&*subject], &format!("subjects should be {subject} alone"));
    want(stream.retention == RetentionPolicy::Limits, "retention should be limits");
    want(stream.max_messages_per_subject <= 0, "max_msgs_per_subject should be -1");
    want(stream.max_message_size <= 0, "max_msg_size should be -1");
    want(!stream.deny_purge, "it should not deny purges");
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// What of a stream loses messages, or takes none.
pub(super) fn loses(stream: &Config) -> Vec<String> {
    let wanted = [
        (stream.discard == DiscardPolicy::New, "discard should be new"),
        (stream.max_age.is_zero(), "max_age should be 0"),
        (stream.max_messages <= 0, "max_msgs should be -1"),
        (stream.storage == StorageType::File, "storage should be file"),
        (!stream.no_ack, "no_ack should be off"),
        (!stream.sealed, "it should not be sealed"),
        (stream.mirror.is_none() && stream.sources.is_none(), "it should mirror nothing"),
    ];
    wanted.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what.to_owned()).collect()
}

fn not_suited(config: &JetstreamConfig, wrong: &[String]) -> String {
    format!(
        "the stream {} is no journal of Forebay, it would lose events or refuse them: {}; change it with `nats stream edit`, \
         or name another in buffer.jetstream.stream",
        config.stream,
        wrong.join(", ")
    )
}

/// The stream's own settings count, also where they are not what this configuration says: other processes use it, too.
fn tell_differences(info: &Info, config: &JetstreamConfig, bytes_max: u64) {
    let (replicas, stream) = (info.config.num_replicas, &config.stream);
    if replicas != config.replicas {
        tracing::warn!(
            stream,
            replicas,
            "buffer.jetstream.replicas says {}; the stream's own number counts",
            config.replicas
        );
    }
    if u64::try_from(info.config.max_bytes).is_ok_and(|max| max < bytes_max) {
        let max_bytes = info.config.max_bytes;
        tracing::warn!(
            stream,
            max_bytes,
            "buffer.max_bytes says {bytes_max}; the stream takes no more than its own"
        );
    }
}
