//! Proxies, as the environment names them. Every client here, and what build steps get, reads them
//! this way.
//!
//! As with curl and Go programs: a variable of a scheme (`HTTPS_PROXY`) wins over `ALL_PROXY`, loopback
//! is reached directly, and `NO_PROXY` lists names with all that is below them, addresses, and blocks
//! of addresses (`10.0.0.0/8`).

use std::fmt::Write as _;
use std::net::IpAddr;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, NoProxy, Proxy, Url};

/// What is reached directly whatever `NO_PROXY` says.
const LOOPBACK: &str = "localhost,127.0.0.1,127.0.0.0/8,::1";

/// The kinds of proxy that can be used.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// A variable that names no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} names no proxy of a known kind ({kinds})", kinds = SCHEMES.join(", "))]
pub struct WrongProxy(pub &'static str);

/// Which proxy leads where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Proxies {
    http: Option<Named>,
    https: Option<Named>,
    no: String,
}

/// A proxy, and what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    variable: &'static str,
    url: Url,
}

impl Proxies {
    /// Reads the variables, in capitals or not; an empty one is absent.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Proxies, WrongProxy> {
        let set = |name: &'static str| {
            let value = [name.to_owned(), name.to_ascii_lowercase()];
            value.iter().filter_map(|name| variable(name)).find(|value| !value.trim().is_empty())
        };
        let named = |variable: &'static str| match set(variable) {
            None => Ok(None),
            Some(value) => {
                let url = parse(&value).ok_or(WrongProxy(variable))?;
                Ok(Some(Named { variable, url }))
            }
        };
        let all = named("ALL_PROXY")?;
        Ok(Proxies {
            http: named("HTTP_PROXY")?.or_else(|| all.clone()),
            https: named("HTTPS_PROXY")?.or(all),
            no: exceptions(&set("NO_PROXY").unwrap_or_default()),
        })
    }

    /// Reads the variables of this process.
    pub(crate) fn of_process() -> Result<Proxies, WrongProxy> {
        Proxies::read(|name| std::env::var(name).ok())
    }

    /// Gives a client these proxies and no others.
    pub(crate) fn apply(&self, mut builder: ClientBuilder) -> ClientBuilder {
        builder = builder.no_proxy();
        let no = || NoProxy::from_string(&self.no);
        if let Some(Ok(proxy)) = self.http.as_ref().map(|named| Proxy::http(named.url.clone())) {
            builder = builder.proxy(proxy.no_proxy(no()));
        }
        if let Some(Ok(proxy)) = self.https.as_ref().map(|named| Proxy::https(named.url.clone())) {
            builder = builder.proxy(proxy.no_proxy(no()));
        }
        builder
    }

    /// Tells whether a proxy leads to `url`.
    pub(crate) fn leads_to(&self, url: &Url) -> bool {
        url.as_str().parse().is_ok_and(|uri| self.matcher().intercept(&uri).is_some())
    }

    /// Returns what says which proxy leads to an address.
    pub(crate) fn matcher(&self) -> Matcher {
        let name = |named: &Option<Named>| {
            named.as_ref().map_or(String::new(), |named| named.url.to_string())
        };
        Matcher::builder()
            .http(name(&self.http))
            .https(name(&self.https))
            .no(self.no.clone())
            .build()
    }

    /// Returns the variables that make a program with curl, such as git, go the same ways. It does not
    /// read `HTTP_PROXY` in capitals.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let named = [("http_proxy", &self.http), ("https_proxy", &self.https)];
        let mut set: Vec<(&str, String)> = named
            .into_iter()
            .filter_map(|(name, named)| Some((name, named.as_ref()?.url.to_string())))
            .collect();
        if !set.is_empty() {
            set.push(("no_proxy", self.no.clone()));
        }
        set
    }

    /// Tells whether there is none.
    pub(crate) fn is_none(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    /// Tells whether one listens on this host's loopback.
    pub(crate) fn on_loopback(&self) -> bool {
        self.each().any(|named| {
            let host = named.url.host_str().unwrap_or_default();
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        })
    }

    /// Tells whether one speaks SOCKS.
    pub(crate) fn speaks_socks(&self) -> bool {
        self.each().any(|named| named.url.scheme().starts_with("socks"))
    }

    fn each(&self) -> impl Iterator<Item = &Named> {
        self.http.iter().chain(&self.https)
    }

    /// Returns the settings of apt that it does not take from the environment itself: it knows
    /// `http_proxy` and `https_proxy` only, and of SOCKS the kind where the proxy looks names up.
    pub(crate) fn apt_settings(&self) -> String {
        let mut text = String::new();
        for (kind, named) in [("http", &self.http), ("https", &self.https)] {
            let Some(Named { variable, url }) = named else { continue };
            let url = match url.scheme() {
                "socks5" => url.to_string().replacen("socks5:", "socks5h:", 1),
                "socks5h" | "http" | "https" if *variable == "ALL_PROXY" => url.to_string(),
                _ => continue,
            };
            let _ = writeln!(text, "Acquire::{kind}::Proxy \"{url}\";");
        }
        text
    }
}

/// Tells whether a proxy of this process leads to `url`.
pub(crate) fn leads_to(url: &str) -> bool {
    let url = Url::parse(url);
    url.is_ok_and(|url| Proxies::of_process().is_ok_and(|proxies| proxies.leads_to(&url)))
}

/// Reads a proxy; without a scheme it speaks HTTP. What curl calls `socks` is SOCKS 4.
fn parse(value: &str) -> Option<Url> {
    let value = value.trim();
    let value = match value.split_once("://") {
        None => format!("http://{value}"),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("socks") => format!("socks4://{rest}"),
        Some(_) => value.to_owned(),
    };
    let url = Url::parse(&value).ok()?;
    let usable =
        SCHEMES.contains(&url.scheme()) && url.host_str().is_some_and(|host| !host.is_empty());
    usable.then_some(url)
}

/// Brings what `NO_PROXY` says into the form that most programs read, with loopback. Names may begin
/// with `*.` or a dot, and have a port, which counts for all ports.
pub(crate) fn exceptions(list: &str) -> String {
    let parts = || list.split(|c: char| c == ',' || c.is_whitespace());
    // All of it; most programs know it only alone.
    if parts().any(|entry| entry == "*") {
        return "*".to_owned();
    }
    let mut entries = vec![LOOPBACK.to_owned()];
    for entry in parts() {
        let entry = entry.strip_prefix("*.").unwrap_or(entry);
        let entry = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => match entry.split_once(':') {
                Some((host, port)) if port.parse::<u16>().is_ok() => host,
                _ => entry,
            },
        };
        if !entry.is_empty() {
            entries.push(entry.to_owned());
        }
    }
    entries.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Proxies, WrongProxy> {
        Proxies::read(|name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn leads_to(set: &[(&str, &str)], url: &str) -> bool {
        read(set).unwrap().leads_to(&Url::parse(url).unwrap())
    }

    #[test]
    fn every_kind_of_proxy_is_read_in_every_spelling() {
        for proxy in [
            ("ALL_PROXY", "socks5h://127.0.0.1:1080"),
            ("all_proxy", "socks5://proxy:1080"),
            ("https_proxy", "socks4a://proxy"),
            ("HTTPS_PROXY", "http://user:pass@proxy:3128/"),
            ("ALL_PROXY", "proxy:3128"),
            ("all_proxy", "socks://proxy:1080/"),
        ] {
            assert!(leads_to(&[proxy], "https://x.example/"), "{proxy:?}");
        }
        assert!(!leads_to(&[("HTTPS_PROXY", "http://p")], "http://x.example/"));
        assert!(!leads_to(&[], "http://x.example/"));
        // An empty variable is absent, and does not hide the other spelling.
        assert!(leads_to(
            &[("HTTPS_PROXY", ""), ("https_proxy", "http://p")],
            "https://x.example/"
        ));
        for wrong in ["quic://p:1", "socks6://p", "http://"] {
            assert_eq!(read(&[("ALL_PROXY", wrong)]), Err(WrongProxy("ALL_PROXY")), "{wrong}");
        }
    }

    #[test]
    fn what_is_excepted_is_reached_directly() {
        let list = "example.com, .dot.example *.star.example,10.0.0.0/8,192.168.7.9 \
                    ports.example:5000,[fd00::1]:80,fe80::/10";
        let set = [("ALL_PROXY", "socks5h://p:1"), ("NO_PROXY", list)];
        for direct in [
            "https://example.com/",
            "https://below.example.com/",
            "https://a.dot.example/",
            "https://a.star.example/",
            "http://10.20.30.40:5000/v2/",
            "http://192.168.7.9/",
            "http://ports.example:5000/",
            "http://[fd00::1]:80/",
            "http://[fe80::2]/",
            "http://localhost:5000/",
            "http://127.0.0.1:5000/",
            "http://[::1]:5000/",
        ] {
            assert!(!leads_to(&set, direct), "{direct}");
        }
        for proxied in ["https://notexample.com/", "http://11.0.0.1/", "http://192.168.7.8/"] {
            assert!(leads_to(&set, proxied), "{proxied}");
        }
        assert!(!leads_to(&[("ALL_PROXY", "p:1"), ("no_proxy", "*")], "https://x.example/"));
    }

    #[test]
    fn git_goes_the_same_ways() {
        let set = [("HTTP_PROXY", "p:3128"), ("NO_PROXY", "*.example.com,r.example:5000")];
        assert_eq!(
            read(&set).unwrap().variables(),
            [
                ("http_proxy", "http://p:3128/".to_owned()),
                (
                    "no_proxy",
                    "localhost,127.0.0.1,127.0.0.0/8,::1,example.com,r.example".to_owned()
                )
            ]
        );
        assert_eq!(read(&[("NO_PROXY", "x")]).unwrap().variables(), []);
    }

    #[test]
    fn apt_is_told_what_it_does_not_read_itself() {
        let settings = |set: &[(&str, &str)]| read(set).unwrap().apt_settings();
        assert_eq!(settings(&[("HTTP_PROXY", "http://p:3128")]), "");
        assert_eq!(
            settings(&[("ALL_PROXY", "socks5://p:1080")]),
            "Acquire::http::Proxy \"socks5h://p:1080\";\nAcquire::https::Proxy \"socks5h://p:1080\";\n"
        );
        assert_eq!(
            settings(&[("http_proxy", "socks5://p:1080")]),
            "Acquire::http::Proxy \"socks5h://p:1080\";\n"
        );
    }
}
