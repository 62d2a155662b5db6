//! Which proxy leads to the API server, as `kubectl` decides it.
//!
//! kube compares NO_PROXY with the address of the proxy instead of that of the API server.

use std::net::IpAddr;

use kube::config::Kubeconfig;

/// The proxy for an API server; absent if it is reached directly. One that the kubeconfig names is always used; one from
/// the environment is not used for the hosts of NO_PROXY, nor for this machine.
pub(super) fn choose(
    kubeconfig: Option<&str>,
    scheme: &str,
    host: &str,
    port: u16,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let given = |name: &str| {
        let upper = variable(name).filter(|text| !text.is_empty());
        upper.or_else(|| variable(&name.to_lowercase()).filter(|text| !text.is_empty()))
    };
    let proxy = match kubeconfig {
        Some(proxy) => Some(proxy.to_owned()),
        None if bypasses(&given("NO_PROXY").unwrap_or_default(), host, port) => None,
        None => given(if scheme == "http" { "HTTP_PROXY" } else { "HTTPS_PROXY" }),
    };
    proxy.map(|proxy| if proxy.contains("://") { proxy } else { format!("http://{proxy}") })
}

/// The proxy of the selected context's cluster.
pub(super) fn of_kubeconfig(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let context = context.or(kubeconfig.current_context.as_deref())?;
    let context = kubeconfig.contexts.iter().find(|named| named.name == context)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster)?;
    cluster.cluster.as_ref()?.proxy_url.clone().filter(|proxy| !proxy.is_empty())
}

/// Whether NO_PROXY, or the host itself, asks for a direct connection.
fn bypasses(no_proxy: &str, host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']).to_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    host == "localhost"
        || address.is_some_and(|address| address.is_loopback())
        || no_proxy
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .any(|entry| entry == "*" || matches(&entry.to_lowercase(), &host, address, port))
}

fn matches(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if let Some((network, bits)) = entry.split_once('/')
        && let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>())
    {
        return address.is_some_and(|address| is_within(address, network, bits));
    }
    // A bare IPv6 address has colons too, and no port.
    let (name, of_port) = match entry.rsplit_once(':') {
        Some((name, text)) if entry.parse::<IpAddr>().is_err() => match text.parse::<u16>() {
            Ok(number) => (name, Some(number)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    };
    let name = name.trim_matches(['[', ']']);
    if of_port.is_some_and(|of_port| of_port != port) {
        return false;
    }
    if let Ok(wanted) = name.parse::<IpAddr>() {
        return address == Some(wanted);
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    match name.strip_prefix('.') {
        Some(_) => host.ends_with(name),
        None => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            u32::from(address) & mask == u32::from(network) & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
            u128::from(address) & mask == u128::from(network) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_is_read_as_kubectl_reads_it() {
        // From the tests of golang.org/x/net/http/httpproxy.
        let list = "foobar.com, .barbaz.net,*.wild.org,[2001:db8::52:0:1],10.0.0.0/8,192.0.2.1:6443,,2001:db8:1::/48";
        for (host, port, direct) in [
            ("localhost", 443, true),
            ("127.0.0.1", 443, true),
            ("[::1]", 443, true),
            ("foobar.com", 443, true),
            ("www.FooBar.com", 443, true),
            ("notfoobar.com", 443, false),
            ("barbaz.net", 443, false),
            ("www.barbaz.net", 443, true),
            ("a.wild.org", 443, true),
            ("2001:db8::52:0:1", 443, true),
            ("2001:db8:1:2::3", 443, true),
            ("10.11.12.13", 443, true),
            ("11.0.0.1", 443, false),
            ("192.0.2.1", 6443, true),
            ("192.0.2.1", 443, false),
        ] {
            assert_eq!(bypasses(list, host, port), direct, "{host}:{port}");
        }
        assert!(bypasses("*", "example.com", 443) && !bypasses("", "example.com", 443));
    }

    #[test]
    fn the_kubeconfig_comes_before_the_environment() {
        let variable = |name: &str| match name {
            "https_proxy" => Some("proxy:3128".to_owned()),
            "NO_PROXY" => Some("example.com".to_owned()),
            _ => None,
        };
        let proxy = |kubeconfig, host| choose(kubeconfig, "https", host, 443, variable);
        assert_eq!(proxy(None, "example.com"), None);
        assert_eq!(proxy(None, "example.org").as_deref(), Some("http://proxy:3128"));
        assert_eq!(proxy(Some("socks5://a:1"), "example.com").as_deref(), Some("socks5://a:1"));
        assert_eq!(choose(None, "http", "example.org", 80, variable), None, "that is another variable");
    }
}
