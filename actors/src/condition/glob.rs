//! Names with stars in them.

/// A name in which `*` stands for any characters and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl Glob {
    /// Of this text: every text is one.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether the name is as it says. Takes at most as many steps as the product of both lengths.
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), name.chars());
        // Behind the last star, and what is left of the name if that star takes one character more.
        let mut again = None;
        loop {
            let rest_here = rest.clone();
            match (pattern.next(), rest.next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    rest = rest_here;
                    again = Some((pattern.clone(), rest.clone()));
                    continue;
                }
                (Some('?'), Some(_)) => continue,
                (Some(wanted), Some(found)) if wanted == found => continue,
                _ => {}
            }
            let Some((behind_star, name)) = &mut again else { return false };
            if name.next().is_none() {
                return false;
            }
            (pattern, rest) = (behind_star.clone(), name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slow(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|taken| slow(rest, &name[taken..])),
            Some((wanted, rest)) => name
                .split_first()
                .is_some_and(|(found, name)| (*wanted == '?' || wanted == found) && slow(rest, name)),
        }
    }

    proptest! {
        /// It is what trying every length for every star would be.
        #[test]
        fn a_glob_matches_what_trying_everything_finds(pattern in "[ab*?é]{0,7}", name in "[abé]{0,9}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(Glob::new(&pattern).matches(&name), slow(&chars(&pattern), &chars(&name)));
        }
    }

    /// A star takes anything, dashes and dots too; a name without one is itself alone.
    #[test]
    fn names_and_stars() {
        for (pattern, name, is_match) in [
            ("shop", "shop", true),
            ("shop", "shop-2", false),
            ("cart-*", "cart-eu.1", true),
            ("cart-*", "cart-", true),
            ("*-api-*", "eu-api-7", true),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), is_match, "{pattern} {name}");
        }
    }
}
