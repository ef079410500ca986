//! Replays the fuzz corpora through the functions the fuzz targets run.

use std::path::PathBuf;

use crate::{fuzz, samples};

/// Most files a corpus may have: they are replayed with every test run.
const MAX_FILES: usize = 40;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

fn replay(target: &str, entry: fn(&[u8])) {
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        for (name, data) in seeds(target) {
            std::fs::write(folder(target).join(name), data).unwrap();
        }
    }
    let files: Vec<_> = std::fs::read_dir(folder(target)).unwrap().map(Result::unwrap).collect();
    assert!((10..=MAX_FILES).contains(&files.len()), "{target} has {} files", files.len());
    for file in files {
        entry(&std::fs::read(file.path()).unwrap());
    }
}

#[test]
fn frames() {
    replay("frame", fuzz::frame);
}

#[test]
fn control() {
    replay("control", fuzz::control);
}

#[test]
fn batches() {
    replay("batch", fuzz::batch);
}

/// The inputs that start a corpus: good ones, and damaged ones of every size.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (name, frame) in samples::frames() {
        let is_batch = name.starts_with("batch");
        let good = match target {
            "frame" => frame.bytes.to_vec(),
            "control" if !is_batch => [&[frame.kind().0.to_le_bytes()[0]], frame.body()].concat(),
            "batch" if is_batch => [&[0], frame.body()].concat(),
            _ => continue,
        };
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 0x55;
        bad.truncate(good.len() - good.len() / 8);
        seeds.push((name.to_owned(), good));
        seeds.push((format!("{name}-damaged"), bad));
    }
    if target == "batch" {
        for batch in samples::batches().into_iter().filter(|batch| batch.records.len() < 256) {
            let columns = crate::hostile_batch::columns_of(&batch.frame());
            let records = u8::try_from(batch.records.len()).unwrap();
            seeds.push((format!("{}-columns", batch.name), [&[1, records], &columns[..]].concat()));
        }
    }
    if target == "frame" {
        let frames = samples::frames();
        let segment = frames.iter().take(4).flat_map(|(_, frame)| frame.bytes.to_vec()).collect();
        seeds.push(("segment".to_owned(), segment));
    }
    seeds
}
