//! Addresses of pages: parsed once, and written by those who link to them.

use form_urlencoded::Serializer;
use wgnet_proto::text::clipped;
use wgnet_proto::{HostId, NetworkKey};

use super::journal::Kind;
use super::series::Span;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    Overview,
    Networks,
    Network(NetworkKey),
    Hosts,
    Host(HostId),
    Endpoints,
    Tunnels,
    /// One direction and the other.
    Pair(HostId, HostId),
    Problems,
    Journal,
}

impl Page {
    /// `None` for what is no page.
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let page = match (parts.next()?, parts.next(), parts.next()) {
            ("", None, None) => Self::Overview,
            ("networks", None, None) => Self::Networks,
            ("networks", Some(key), None) => Self::Network(key.parse().ok()?),
            ("hosts", None, None) => Self::Hosts,
            ("hosts", Some(host), None) => Self::Host(host.parse().ok()?),
            ("endpoints", None, None) => Self::Endpoints,
            ("tunnels", None, None) => Self::Tunnels,
            ("tunnels", Some(from), Some(to)) => Self::Pair(from.parse().ok()?, to.parse().ok()?),
            ("problems", None, None) => Self::Problems,
            ("journal", None, None) => Self::Journal,
            _ => return None,
        };
        parts.next().is_none().then_some(page)
    }

    pub fn path(&self) -> String {
        match self {
            Self::Overview => "/".to_owned(),
            Self::Networks => "/networks".to_owned(),
            Self::Network(key) => format!("/networks/{key}"),
            Self::Hosts => "/hosts".to_owned(),
            Self::Host(host) => format!("/hosts/{host}"),
            Self::Endpoints => "/endpoints".to_owned(),
            Self::Tunnels => "/tunnels".to_owned(),
            Self::Pair(from, to) => format!("/tunnels/{from}/{to}"),
            Self::Problems => "/problems".to_owned(),
            Self::Journal => "/journal".to_owned(),
        }
    }
}

/// What of a page is wanted. Whatever is not understood is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    pub search: String,
    /// From 1 on.
    pub number: usize,
    pub network: Option<NetworkKey>,
    pub host: Option<HostId>,
    pub span: Span,
    pub kind: Option<Kind>,
}

/// Longer ones find nothing.
const LONGEST_SEARCH: usize = 100;

impl Ask {
    pub fn parse(query: &str) -> Self {
        let mut ask = Self { number: 1, ..Self::default() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "q" => ask.search = clipped(value.trim(), LONGEST_SEARCH),
                "page" => ask.number = value.parse().unwrap_or(1).clamp(1, 1_000_000),
                "network" => ask.network = value.parse().ok(),
                "host" => ask.host = value.parse().ok(),
                "span" if value == "day" => ask.span = Span::Day,
                "kind" => ask.kind = Kind::named(&value),
                _ => {}
            }
        }
        ask
    }

    /// The address of a page with this.
    pub fn link(&self, page: &Page) -> String {
        let mut query = Serializer::new(String::new());
        if !self.search.is_empty() {
            query.append_pair("q", &self.search);
        }
        if let Some(network) = &self.network {
            query.append_pair("network", network.as_str());
        }
        if let Some(host) = self.host {
            query.append_pair("host", &host.to_string());
        }
        if let Some(kind) = self.kind {
            query.append_pair("kind", kind.name());
        }
        if self.span == Span::Day {
            query.append_pair("span", "day");
        }
        if self.number > 1 {
            query.append_pair("page", &self.number.to_string());
        }
        let query = query.finish();
        if query.is_empty() { page.path() } else { format!("{}?{query}", page.path()) }
    }

    pub fn at(&self, number: usize) -> Self {
        Self { number, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_an_address_that_leads_back_to_it() {
        let host = HostId([7; 16]);
        let pages = [
            Page::Overview,
            Page::Networks,
            Page::Network("n-blue".parse().unwrap()),
            Page::Hosts,
            Page::Host(host),
            Page::Endpoints,
            Page::Tunnels,
            Page::Pair(host, HostId([8; 16])),
            Page::Problems,
            Page::Journal,
        ];
        for page in pages {
            assert_eq!(Page::parse(&page.path()), Some(page));
        }
        for path in
            ["", "/x", "/networks/../x", "/networks/<b>", "/hosts/1", "//", "/hosts/", "/tunnels/1"]
        {
            assert_eq!(Page::parse(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_asked_survives_its_link_and_nonsense_asks_for_nothing() {
        let ask = Ask {
            search: "10.0.0.1 & \"<ü>\"".to_owned(),
            number: 3,
            network: Some("n-blue".parse().unwrap()),
            host: Some(HostId([9; 16])),
            span: Span::Day,
            kind: Some(Kind::Hosts),
        };
        let link = ask.link(&Page::Endpoints);
        assert_eq!(Ask::parse(link.split_once('?').unwrap().1), ask);
        assert_eq!(Ask::parse("").link(&Page::Hosts), "/hosts");
        let nonsense = Ask::parse("page=0&network=..&host=1&span=x&kind=y&page=%ff&&=&%");
        assert_eq!(nonsense, Ask::parse(""));
        assert!(Ask::parse(&format!("q={}", "x".repeat(5000))).search.len() < 200);
    }
}
