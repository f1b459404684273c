//! Both representations give the answers of a simple model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use spacejmp::Space;

use super::*;
use crate::csr::Csr;
use crate::edges::EdgeList;
use crate::pointers::{Inside, Links, fill};

/// One space for all tests: a brand belongs to one space for as long as the process lives.
static SPACE: LazyLock<Space<Links<'static>>> =
    LazyLock::new(|| Space::<Links<'_>>::in_memory(1 << 20, |_| Ok(None)).expect("plain memory"));

/// The graph in the simplest representation.
#[derive(Default)]
struct Model(BTreeMap<u32, Vec<u32>>);

impl Model {
    fn new(edges: &[(u32, u32)]) -> Model {
        let mut model = Model::default();
        for &(from, to) in edges {
            model.0.entry(to).or_default();
            model.0.entry(from).or_default().push(to);
        }
        model
    }

    fn steps(&self, from: u32, to: u32) -> Option<u64> {
        let mut reached = BTreeSet::from([from]);
        for steps in 0..=self.0.len() as u64 {
            if reached.contains(&to) {
                return Some(steps);
            }
            let next: Vec<u32> = reached.iter().flat_map(|id| self.0[id].clone()).collect();
            reached.extend(next);
        }
        None
    }

    fn answer(&self, query: Query) -> String {
        let missing = |id: &u32| !self.0.contains_key(id);
        match query {
            Query::Degree(id) if missing(&id) => format!("degree {id}: there is no such node\n"),
            Query::Degree(id) => format!("degree {id}: {}\n", self.0[&id].len()),
            Query::Reach(a, b) => match [a, b].iter().find(|id| missing(id)) {
                Some(id) => format!("reach {a} {b}: there is no node {id}\n"),
                None => match self.steps(a, b) {
                    Some(steps) => format!("reach {a} {b}: yes, {steps} steps\n"),
                    None => format!("reach {a} {b}: no\n"),
                },
            },
            Query::Stats => {
                let edges: usize = self.0.values().map(Vec::len).sum();
                let most = self.0.values().map(Vec::len).max();
                let largest = most.map_or(String::new(), |most| {
                    let (id, _) = self.0.iter().find(|one| one.1.len() == most).unwrap();
                    format!(", largest degree {most} at node {id}")
                });
                format!("stats: {} nodes, {edges} edges{largest}\n", self.0.len())
            }
        }
    }
}

fn answer(query: Query, graph: &impl Adjacency) -> String {
    let mut out = Vec::new();
    query.answer(graph, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn compare(edges: &[(u32, u32)]) {
    let model = Model::new(edges);
    let text: String = edges.iter().map(|(from, to)| format!("{from} {to}\n")).collect();
    let list = EdgeList::parse(text.as_bytes()).unwrap();
    let csr = Csr::new(&list);
    let mut ids: Vec<u32> = model.0.keys().copied().collect();
    ids.extend([0, 2, u32::MAX]);
    let mut queries = vec![Query::Stats];
    for &id in &ids {
        queries.push(Query::Degree(id));
        queries.extend(ids.iter().map(|&to| Query::Reach(id, to)));
    }
    let visited = SPACE.write(|v| {
        fill(v, &csr).unwrap();
        let graph = Inside::new(v).unwrap();
        for query in queries {
            let expected = model.answer(query);
            assert_eq!(answer(query, &graph), expected, "pointers, {edges:?}");
            assert_eq!(answer(query, &csr), expected, "arrays, {edges:?}");
        }
        Ok::<_, spacejmp::Error>(())
    });
    visited.unwrap();
}

#[test]
fn small_graphs_of_every_shape_give_the_models_answers() {
    compare(&[]);
    compare(&[(1, 1)]);
    compare(&[(0, 1), (1, 2), (2, 0), (3, 3)]);
    compare(&[(5, 1_000_000), (1_000_000, 7), (7, 7), (5, 5), (5, 5), (2, 4_000_000)]);
}

#[test]
fn random_graphs_give_the_models_answers() {
    let mut state = 1_u64;
    let mut random = |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 33) % end) as u32
    };
    for round in 0..40 {
        let (nodes, scale) = (1 + random(30), if round % 2 == 0 { 1 } else { 1009 });
        let node = |random: &mut dyn FnMut(u64) -> u32| random(u64::from(nodes)) * scale;
        let count = random(60);
        let edges: Vec<_> = (0..count).map(|_| (node(&mut random), node(&mut random))).collect();
        compare(&edges);
    }
}

#[test]
fn queries_are_read_as_they_are_written() {
    assert_eq!(Query::parse(" reach 1  2 "), Some(Query::Reach(1, 2)));
    assert_eq!(Query::parse("degree 7"), Some(Query::Degree(7)));
    assert_eq!(Query::parse("stats"), Some(Query::Stats));
    for text in ["", "degree", "degree x", "reach 1", "stats 1", "degree 99999999999"] {
        assert_eq!(Query::parse(text), None, "{text}");
    }
}
