//! What is in MSCOCO's images: the segmented objects and those that five people mentioned (`get_annotations` in CHAIR's program).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::words::{Singular, category, objects as mentioned};
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct Instances {
    categories: Vec<Category>,
    annotations: Vec<Instance>,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct Instance {
    image_id: u64,
    category_id: u64,
}

#[derive(Deserialize)]
struct Captions {
    annotations: Vec<Caption>,
}

#[derive(Deserialize)]
struct Caption {
    image_id: u64,
    caption: String,
}

/// The categories in each image.
pub(super) fn objects(instances: &Path, captions: &Path) -> Result<BTreeMap<u64, BTreeSet<&'static str>>> {
    let segmented: Instances = read(instances)?;
    let mut names = BTreeMap::new();
    for Category { id, name } in &segmented.categories {
        let message = format!("category `{name}` is none of MSCOCO's. Use the published file.");
        let name = category(name).ok_or(Error::File { file: instances.to_owned(), message })?;
        names.insert(*id, name);
    }
    let mut objects = BTreeMap::<u64, BTreeSet<&'static str>>::new();
    for Instance { image_id, category_id } in segmented.annotations {
        objects.entry(image_id).or_default().extend(names.get(&category_id));
    }
    for Caption { image_id, caption } in read::<Captions>(captions)?.annotations {
        objects.entry(image_id).or_default().extend(mentioned(&caption, Singular::Pattern));
    }
    Ok(objects)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let error = |message: String| Error::File { file: path.to_owned(), message };
    let file = File::open(path).map_err(|source| error(source.to_string()))?;
    serde_json::from_reader(BufReader::new(file))
        .map_err(|source| error(format!("{source}. Use the published file.")))
}
