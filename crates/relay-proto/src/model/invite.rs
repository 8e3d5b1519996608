//! The invite's parser: no text harms it, what it takes is what it writes, and no error shows a secret.

use crate::identity::Token;
use crate::invite::Invite;

/// Takes `bytes` for an invite, as they are and in the place of `at` in a good one.
pub fn run(bytes: &[u8], at: usize) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(invite) = text.parse::<Invite>() {
        assert_eq!(invite.to_string().parse(), Ok(invite));
    }

    let token = Token::from_random([0x5a; 32]).expose();
    let good = format!("relay://laptop:{token}@[2001:db8::1]:7000?pin=sha256-{}", "5a".repeat(32));
    let at = at % (good.len() + 1);
    let mangled = format!("{}{text}{}", &good[..at], &good[at..]);
    match mangled.parse::<Invite>() {
        Ok(invite) => assert_eq!(invite.to_string().parse(), Ok(invite)),
        Err(error) => {
            let shown = format!("{error} {error:?}");
            // Neither half of the token, wherever it was cut.
            assert!(!shown.contains(&token[..16]) && !shown.contains(&token[27..]), "{shown}");
            assert!(shown.len() < 512 && shown.chars().all(|c| !c.is_control()), "{shown:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_harms(
            text in prop_oneof![
                "\\PC*",
                "relay://[a-z0-9._-]{1,5}:[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]@[a-z.\\[\\]:0-9]{0,9}(:[0-9]{1,5})?",
                "[:@?/ '\"\\[\\]&%!a0]{0,4}",
            ],
            at in any::<usize>(),
        ) {
            super::run(text.as_bytes(), at);
        }
    }
}
