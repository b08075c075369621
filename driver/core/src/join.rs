//! What Join answers: the interface to move into the container and the routes to give it.

use std::net::IpAddr;

use ipnet::IpNet;
use wgnet_proto::IfName;

use crate::{LocalEndpoint, NetworkDefinition, Subnet};

/// The parts of Join's answer that are ours to decide. No gateway is among them: docker_gwbridge
/// gives egress, as it does for Docker's overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinAnswer {
    /// The end of the veth pair that Docker moves into the container.
    pub source: IfName,
    /// Docker appends a number: `eth` becomes `eth0`.
    pub destination_prefix: &'static str,
    /// Static routes through a next hop (`RouteType` 0), to be installed in this order.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// `DisableGatewayService`: no docker_gwbridge on behalf of this endpoint.
    pub disable_gateway_service: bool,
}

/// Answers Join for an endpoint of a network.
pub fn join(definition: &NetworkDefinition, endpoint: &LocalEndpoint) -> JoinAnswer {
    JoinAnswer {
        source: IfName::veth_container(&endpoint.id),
        destination_prefix: "eth",
        routes: container_routes(&definition.subnets, &endpoint.addresses),
        disable_gateway_service: definition.options.gwbridge == Some(false),
    }
}

/// The routes that lead everything of the network through the gateway of the container's own subnet.
///
/// The own subnet goes by its two halves, which are more specific than the connected route that
/// Docker adds for it. Every other subnet of the family goes as a whole, through the *own* gateway:
/// the kernel refuses a next hop that is not on the link. The half that contains the gateway comes
/// last: once it is there, IPv6 takes the gateway itself for reached through a gateway and refuses
/// every further route.
///
/// No route is given where none can help:
/// - a subnet without a gateway: what is asked for by ARP is answered by proxy;
/// - a /31 or /127, whose only other address is the gateway, and a /32 or /128, which has none (a
///   route to the subnet itself would collide with the connected one and fail the Join);
/// - an address whose prefix length is not its subnet's, for which nothing says what is on the link.
pub fn container_routes(subnets: &[Subnet], addresses: &[IpNet]) -> Vec<(IpNet, IpAddr)> {
    let mut routes = Vec::new();
    for address in addresses {
        let own = subnets.iter().find(|s| s.pool.trunc() == address.trunc());
        let Some((own, gateway)) = own.and_then(|s| Some((s.pool.trunc(), s.gateway?))) else {
            continue;
        };
        if !own.contains(&gateway) {
            continue;
        }
        let others = subnets.iter().map(|s| s.pool.trunc());
        let others = others.filter(|p| *p != own && is_ipv4(p) == is_ipv4(&own));
        routes.extend(others.map(|pool| (pool, gateway)));
        if let Some([low, high]) = halves(&own) {
            let [first, last] = if low.contains(&gateway) { [high, low] } else { [low, high] };
            routes.extend([(first, gateway), (last, gateway)]);
        }
    }
    routes
}

/// The two halves of a subnet with room for a gateway and at least two containers.
fn halves(pool: &IpNet) -> Option<[IpNet; 2]> {
    let length = pool.prefix_len() + 1;
    if length >= pool.max_prefix_len() {
        return None;
    }
    let mut halves = pool.subnets(length).ok()?;
    Some([halves.next()?, halves.next()?])
}

fn is_ipv4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(subnets: &[(&str, Option<&str>)], addresses: &[&str]) -> Vec<String> {
        let subnet = |(pool, gateway): &(&str, Option<&str>)| Subnet {
            pool: pool.parse().unwrap(),
            gateway: gateway.map(|g| g.parse().unwrap()),
        };
        let subnets: Vec<Subnet> = subnets.iter().map(subnet).collect();
        let addresses: Vec<IpNet> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let routes = container_routes(&subnets, &addresses);
        routes.iter().map(|(destination, via)| format!("{destination} via {via}")).collect()
    }

    #[test]
    fn a_subnet_is_covered_by_its_halves_the_one_without_the_gateway_first() {
        assert_eq!(
            routes(&[("10.50.0.0/24", Some("10.50.0.1"))], &["10.50.0.7/24"]),
            ["10.50.0.128/25 via 10.50.0.1", "10.50.0.0/25 via 10.50.0.1"]
        );
        assert_eq!(
            routes(&[("fd50::/64", Some("fd50::8000:0:0:1"))], &["fd50::7/64"]),
            ["fd50::/65 via fd50::8000:0:0:1", "fd50::8000:0:0:0/65 via fd50::8000:0:0:1"]
        );
    }

    #[test]
    fn each_family_goes_through_its_own_gateway() {
        let subnets = [("10.50.0.0/24", Some("10.50.0.1")), ("fd50::/64", Some("fd50::1"))];
        assert_eq!(
            routes(&subnets, &["10.50.0.7/24", "fd50::7/64"]),
            [
                "10.50.0.128/25 via 10.50.0.1",
                "10.50.0.0/25 via 10.50.0.1",
                "fd50::8000:0:0:0/65 via fd50::1",
                "fd50::/65 via fd50::1",
            ]
        );
        assert_eq!(routes(&subnets, &["10.50.0.7/24"]).len(), 2);
    }

    #[test]
    fn other_subnets_go_as_a_whole_through_the_gateway_that_is_on_the_link() {
        let subnets = [("10.1.0.0/24", Some("10.1.0.1")), ("10.2.0.0/24", Some("10.2.0.1"))];
        assert_eq!(
            routes(&subnets, &["10.2.0.9/24"]),
            ["10.1.0.0/24 via 10.2.0.1", "10.2.0.128/25 via 10.2.0.1", "10.2.0.0/25 via 10.2.0.1",]
        );
    }

    #[test]
    fn a_subnet_too_small_for_halves_gets_no_route_of_its_own() {
        assert!(routes(&[("10.1.0.0/31", Some("10.1.0.0"))], &["10.1.0.1/31"]).is_empty());
        assert!(routes(&[("10.1.0.0/32", None)], &["10.1.0.0/32"]).is_empty());
        assert!(routes(&[("fd50::/127", Some("fd50::"))], &["fd50::1/127"]).is_empty());
        assert_eq!(
            routes(&[("10.1.0.0/30", Some("10.1.0.1"))], &["10.1.0.2/30"]),
            ["10.1.0.2/31 via 10.1.0.1", "10.1.0.0/31 via 10.1.0.1"]
        );
    }

    #[test]
    fn without_a_gateway_on_the_link_there_is_no_route() {
        assert!(routes(&[("10.1.0.0/24", None)], &["10.1.0.7/24"]).is_empty());
        assert!(routes(&[("10.1.0.0/24", Some("10.9.0.1"))], &["10.1.0.7/24"]).is_empty());
        assert!(routes(&[("10.1.0.0/24", Some("10.1.0.1"))], &["10.1.0.7/32"]).is_empty());
        assert!(routes(&[("10.1.0.0/24", Some("10.1.0.1"))], &["10.9.0.7/24"]).is_empty());
    }
}
