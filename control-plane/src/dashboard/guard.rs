//! Who is let in: what a request says of itself before anything else is looked at. Pure.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HOST, ORIGIN};
use hyper::{HeaderMap, Method, StatusCode};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A token that can be guessed is none.
pub const SHORTEST_TOKEN: usize = 16;

/// What has to be right about every request.
#[derive(Clone)]
pub struct Guard {
    /// Beside addresses and `localhost`, lower case.
    names: Vec<String>,
    token: Option<Token>,
    is_tls: bool,
}

/// Kept as a digest, so that comparing tells nothing.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// # Errors
    ///
    /// When it can be guessed, with the reason.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() < SHORTEST_TOKEN {
            return Err(format!(
                "the token has {} characters and needs {SHORTEST_TOKEN} at least; make one by: openssl rand -hex 32",
                text.len()
            ));
        }
        Ok(Self(digest(text.as_bytes())))
    }

    fn is(&self, given: &[u8]) -> bool {
        self.0.ct_eq(&digest(given)).into()
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Method,
    Host,
    Origin,
    Token,
}

impl Refusal {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Token => StatusCode::UNAUTHORIZED,
        }
    }

    pub fn says(self) -> &'static str {
        match self {
            Self::Method => "The dashboard only shows; it knows GET and HEAD.",
            Self::Host => {
                "The dashboard is not known by this name. Use its address, or start it with --name NAME."
            }
            Self::Origin => {
                "Another site asked for this; the dashboard answers its own pages only."
            }
            Self::Token => {
                "The dashboard wants its token: as password (any user name), or as `Authorization: Bearer`."
            }
        }
    }
}

impl Guard {
    pub fn new(
        names: impl IntoIterator<Item = String>,
        token: Option<Token>,
        is_tls: bool,
    ) -> Self {
        let names = names.into_iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { names, token, is_tls }
    }

    /// # Errors
    ///
    /// When the request is not to be answered.
    pub fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::Method);
        }
        let host = self.host(headers).ok_or(Refusal::Host)?;
        if !self.is_own(headers, host) {
            return Err(Refusal::Origin);
        }
        match &self.token {
            Some(token) if !is_authorised(headers, token) => Err(Refusal::Token),
            _ => Ok(()),
        }
    }

    /// What the request was addressed to, if that is us. A name that anybody's name server may
    /// answer for is none of ours: a page from there would read ours (DNS rebinding).
    fn host<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let mut all = headers.get_all(HOST).iter();
        let (host, None) = (all.next()?.to_str().ok()?, all.next()) else { return None };
        let name = without_port(host)?;
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let name = name.to_ascii_lowercase();
        (is_address || name == "localhost" || self.names.contains(&name)).then_some(host)
    }

    /// Whether our own pages ask, or a person who typed the address or followed a link.
    fn is_own(&self, headers: &HeaderMap, host: &str) -> bool {
        let scheme = if self.is_tls { "https" } else { "http" };
        let is_same = |origin: &str| {
            origin.split_once("://").is_some_and(|(its_scheme, its_host)| {
                // Behind a proxy on this host TLS ends there.
                (its_scheme == scheme || its_scheme == "https")
                    && its_host.eq_ignore_ascii_case(host)
            })
        };
        let origins = headers.get_all(ORIGIN).iter();
        if !origins.into_iter().all(|origin| origin.to_str().is_ok_and(is_same)) {
            return false;
        }
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        match text("sec-fetch-site") {
            None | Some("same-origin" | "none") => true,
            // A link from elsewhere that a person follows. Frames are refused by every page.
            Some(_) => {
                text("sec-fetch-mode") == Some("navigate")
                    && text("sec-fetch-dest") == Some("document")
            }
        }
    }
}

fn is_authorised(headers: &HeaderMap, token: &Token) -> bool {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(given), None) = (all.next(), all.next()) else { return false };
    let Some((scheme, given)) = given.to_str().ok().and_then(|it| it.split_once(' ')) else {
        return false;
    };
    let given = given.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return token.is(given.as_bytes());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    let Ok(given) = STANDARD.decode(given) else { return false };
    let Some(colon) = given.iter().position(|byte| *byte == b':') else { return false };
    token.is(&given[colon + 1..])
}

/// The host of `host:port`, `[v6]:port`, or of either without a port.
fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, "")) => (name, "0"),
        Some((name, rest)) => (name, rest.strip_prefix(':')?),
        None => host.split_once(':').unwrap_or((host, "0")),
    };
    (!name.is_empty() && port.bytes().all(|it| it.is_ascii_digit())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (hyper::header::HeaderName::try_from(*name).unwrap(), value.parse().unwrap())
        });
        pairs.collect()
    }

    fn guard(token: Option<&str>) -> Guard {
        let token = token.map(|text| Token::new(text).unwrap());
        Guard::new(["dash.example.org".to_owned()], token, false)
    }

    fn admitted(guard: &Guard, pairs: &[(&str, &str)]) -> Result<(), Refusal> {
        guard.admit(&Method::GET, &headers(pairs))
    }

    #[test]
    fn only_addresses_and_own_names_are_answered() {
        for host in [
            "127.0.0.1:7587",
            "127.0.0.1",
            "[::1]:7587",
            "[::1]",
            "192.0.2.7:80",
            "localhost:1",
            "LOCALHOST",
            "Dash.Example.org:443",
        ] {
            assert_eq!(admitted(&guard(None), &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:7587",
            "127.0.0.1.evil.example",
            "dash.example.org.",
            "::1",
            "[::1]x:1",
            "127.0.0.1:80:evil",
            "",
            ":80",
        ] {
            assert_eq!(admitted(&guard(None), &[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(admitted(&guard(None), &[]), Err(Refusal::Host));
        let two = [("host", "127.0.0.1"), ("host", "evil.example")];
        assert_eq!(admitted(&guard(None), &two), Err(Refusal::Host));
    }

    #[test]
    fn nothing_but_reading_is_known() {
        let headers = headers(&[("host", "127.0.0.1")]);
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "X"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(guard(None).admit(&method, &headers), Err(Refusal::Method));
        }
        assert_eq!(guard(None).admit(&Method::HEAD, &headers), Ok(()));
    }

    #[test]
    fn other_sites_get_nothing_but_a_link_may_be_followed() {
        let host = ("host", "127.0.0.1:7587");
        let asked = |pairs: &[(&str, &str)]| admitted(&guard(None), &[&[host], pairs].concat());
        assert_eq!(asked(&[("origin", "http://127.0.0.1:7587")]), Ok(()));
        for origin in [
            "http://evil.example",
            "http://127.0.0.1",
            "http://127.0.0.1:7588",
            "null",
            "",
            "ftp://127.0.0.1:7587",
        ] {
            assert_eq!(asked(&[("origin", origin)]), Err(Refusal::Origin), "{origin}");
        }
        assert_eq!(asked(&[("sec-fetch-site", "same-origin")]), Ok(()));
        assert_eq!(asked(&[("sec-fetch-site", "none")]), Ok(()));
        let cross = ("sec-fetch-site", "cross-site");
        assert_eq!(asked(&[cross]), Err(Refusal::Origin));
        assert_eq!(asked(&[("sec-fetch-site", "same-site")]), Err(Refusal::Origin));
        let navigates = ("sec-fetch-mode", "navigate");
        assert_eq!(asked(&[cross, navigates, ("sec-fetch-dest", "document")]), Ok(()));
        let framed = asked(&[cross, navigates, ("sec-fetch-dest", "iframe")]);
        assert_eq!(framed, Err(Refusal::Origin));
    }

    #[test]
    fn a_token_is_wanted_wholly() {
        let guard = guard(Some("0123456789abcdef"));
        let asked =
            |given: &str| admitted(&guard, &[("host", "127.0.0.1"), ("authorization", given)]);
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert_eq!(asked("Bearer 0123456789abcdef"), Ok(()));
        assert_eq!(asked("bearer  0123456789abcdef"), Ok(()));
        assert_eq!(asked(&basic("anyone:0123456789abcdef")), Ok(()));
        assert_eq!(asked(&basic(":0123456789abcdef")), Ok(()));
        for given in [
            "Bearer 0123456789abcde".to_owned(),
            "Bearer ".to_owned(),
            "0123456789abcdef".to_owned(),
            "Digest 0123456789abcdef".to_owned(),
            basic("0123456789abcdef"),
            basic("0123456789abcdef:"),
            "Basic !".to_owned(),
        ] {
            assert_eq!(asked(&given), Err(Refusal::Token), "{given}");
        }
        assert_eq!(admitted(&guard, &[("host", "127.0.0.1")]), Err(Refusal::Token));
        assert!(Token::new("  0123456789abcde  ").is_err());
    }
}
