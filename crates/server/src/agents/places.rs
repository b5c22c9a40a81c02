//! Who may take how many places at the door.
//!
//! A connection counts for its address until it has shown a certificate that opens the door, and for its agent from
//! then on. So whoever only reaches the port can neither use up the places of those who are in, nor keep out more
//! than others who come from its own address.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections that may be in their handshake, or have shown no certificate, at the same time.
const STRANGERS: usize = 200;
/// The same from one address: behind one address translation several agents may begin all their lines at once.
const ADDRESS: usize = 40;
/// Connections of one agent: eight data lines, two others, and as many again whose end was not noticed yet.
const AGENT: usize = 24;
/// Connections of all agents: ten for each of fifty.
const ADMITTED: usize = 500;
/// Addresses of agents that are remembered: they find a place even when strangers took all of theirs.
const REMEMBERED: usize = 1000;

/// The places.
#[derive(Debug, Default)]
pub(crate) struct Places {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    strangers: usize,
    addresses: HashMap<IpAddr, usize>,
    admitted: usize,
    agents: HashMap<String, usize>,
    familiar: HashSet<IpAddr>,
}

/// One place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
    agent: Option<String>,
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for somebody who has shown nothing yet; none if there is none left.
    pub(super) fn come(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut state = self.lock();
        let here = state.addresses.get(&address).copied().unwrap_or(0);
        let full = state.strangers >= STRANGERS && !state.familiar.contains(&address);
        if here >= ADDRESS || full {
            return None;
        }
        state.strangers += 1;
        *state.addresses.entry(address).or_default() += 1;
        Some(Place { places: self.clone(), address, agent: None })
    }
}

impl Place {
    /// From now on it is this agent's; false if the agent has too many.
    pub(super) fn admit(&mut self, agent: &str) -> bool {
        let mut state = self.places.lock();
        let own = state.agents.get(agent).copied().unwrap_or(0);
        if self.agent.is_some() || own >= AGENT || state.admitted >= ADMITTED {
            return false;
        }
        state.strangers -= 1;
        less(&mut state.addresses, &self.address);
        state.admitted += 1;
        *state.agents.entry(agent.to_owned()).or_default() += 1;
        if state.familiar.len() >= REMEMBERED {
            state.familiar.clear();
        }
        state.familiar.insert(self.address);
        drop(state);
        self.agent = Some(agent.to_owned());
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        if let Some(agent) = &self.agent {
            state.admitted -= 1;
            less(&mut state.agents, agent);
        } else {
            state.strangers -= 1;
            less(&mut state.addresses, &self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn one_address_keeps_out_nobody_but_itself() {
        let places = Arc::new(Places::default());
        let flood: Vec<_> = std::iter::from_fn(|| places.come(address(1))).take(1000).collect();
        assert_eq!(flood.len(), ADDRESS);
        let mut place = places.come(address(2)).unwrap();
        assert!(place.admit("ward"));
        drop(flood);
        assert!(places.come(address(1)).is_some(), "a place is given back");
        let state = places.lock();
        assert_eq!((state.strangers, state.admitted, state.addresses.len()), (0, 1, 0));
    }

    #[test]
    fn a_crowd_of_strangers_takes_no_place_of_an_agent_that_was_here() {
        let places = Arc::new(Places::default());
        assert!(places.come(address(1)).unwrap().admit("ward"));
        let hosts = (2..200).flat_map(|host| std::iter::repeat_n(host, ADDRESS));
        let crowd: Vec<_> = hosts.map_while(|host| places.come(address(host))).collect();
        assert_eq!(crowd.len(), STRANGERS);
        assert!(places.come(address(250)).is_none(), "one more stranger");
        let mut lines: Vec<_> = (0..10).map(|_| places.come(address(1)).unwrap()).collect();
        assert!(lines.iter_mut().all(|line| line.admit("ward")));
    }

    #[test]
    fn one_agent_takes_no_more_than_its_own() {
        let places = Arc::new(Places::default());
        let mut lines = Vec::new();
        let taken = (0..1000).take_while(|_| {
            let mut place = places.come(address(1)).unwrap();
            let admitted = place.admit("ward");
            lines.push(place);
            admitted
        });
        assert_eq!(taken.count(), AGENT);
        assert!(places.come(address(1)).unwrap().admit("other"));
        drop(lines);
        let state = places.lock();
        assert_eq!((state.strangers, state.admitted, state.agents.len()), (0, 0, 0));
    }
}
