//! What the aggregator adds to the common pages: the body of `/stats`.

use std::sync::Arc;

use daemon::http::Stats;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value};

/// What `/stats` says: every unlabelled number of `/metrics`, by component and name.
#[must_use]
pub fn stats(registry: Arc<Registry>) -> Stats {
    Arc::new(move || body(&registry))
}

fn body(registry: &Registry) -> Value {
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, registry).is_err() {
        return Value::Null;
    }
    let mut sections = Map::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.contains('{')) {
        let Some((name, value)) = line.split_once(' ') else { continue };
        let name = name.strip_prefix("conntracct_").unwrap_or(name);
        let (section, name) = name.split_once('_').unwrap_or(("process", name));
        let Ok(value) = serde_json::from_str::<Value>(value) else { continue };
        let section = sections.entry(section).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(section) = section {
            section.insert(name.to_owned(), value);
        }
    }
    Value::Object(sections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn numbers_stand_under_their_component() {
        let mut registry = Registry::default();
        let frames: Counter = Counter::default();
        frames.inc_by(7);
        registry.register("conntracct_pipeline_frames", "Frames", frames);
        let stats = stats(Arc::new(registry));
        assert_eq!(stats()["pipeline"]["frames_total"], 7);
    }
}
