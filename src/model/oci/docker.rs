//! Parses the image list of a `docker save` archive (`manifest.json`); the input is hostile.

use serde::Deserialize;

use super::manifest::MAX_LAYERS;

/// The most images of an archive; an arbitrary limit.
const MAX_IMAGES: usize = 1_000;

/// One image of an archive; paths within the archive name its parts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Saved {
    /// Its configuration.
    pub config: String,
    /// Its names, as `name:tag`.
    #[serde(default, deserialize_with = "none_is_empty")]
    pub repo_tags: Vec<String>,
    /// Its layers, lowest first.
    pub layers: Vec<String>,
}

/// Parses null as an empty list: an image may have no name.
fn none_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(from)?.unwrap_or_default())
}

/// Parses the list.
pub fn list(bytes: &[u8]) -> Result<Vec<Saved>, String> {
    let images: Vec<Saved> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if images.is_empty() || images.len() > MAX_IMAGES {
        return Err(format!("it lists {} images; 1 to {MAX_IMAGES} are taken", images.len()));
    }
    match images.iter().find(|image| image.layers.is_empty() || image.layers.len() > MAX_LAYERS) {
        Some(image) => Err(format!("an image has {} layers; 1 to {MAX_LAYERS} are taken", image.layers.len())),
        None => Ok(images),
    }
}

/// Finds the image with a name, with the tag `latest` by default. Without a name the archive must hold exactly one image.
pub fn choose<'a>(images: &'a [Saved], name: Option<&str>) -> Result<&'a Saved, String> {
    let Some(name) = name else {
        return match images {
            [one] => Ok(one),
            _ => Err(format!("it has several images; name one of: {}", names(images))),
        };
    };
    let has_tag = name.rsplit_once(':').is_some_and(|(_, tag)| !tag.contains('/'));
    let wanted = if has_tag { name.to_owned() } else { format!("{name}:latest") };
    let found = images.iter().find(|image| image.repo_tags.contains(&wanted));
    found.ok_or_else(|| format!("it has no \"{wanted}\"; there are: {}", names(images)))
}

fn names(images: &[Saved]) -> String {
    let all: Vec<String> = images.iter().flat_map(|image| &image.repo_tags).map(|name| name.escape_debug().to_string()).collect();
    if all.is_empty() { "none with a name".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_by_name() {
        let text = br#"[{"Config":"a.json","RepoTags":["x:1","localhost:5000/y:latest"],"Layers":["l"],"LayerSources":{}},
            {"Config":"b.json","RepoTags":null,"Layers":["l"]}]"#;
        let images = list(text).expect("a list");
        let chosen = |name| choose(&images, name).map(|image| image.config.as_str()).map_err(|error| error.replace('"', ""));
        assert_eq!(chosen(Some("x:1")), Ok("a.json"));
        assert_eq!(chosen(Some("localhost:5000/y")), Ok("a.json"));
        assert_eq!(chosen(Some("x")), Err("it has no x:latest; there are: x:1, localhost:5000/y:latest".to_owned()));
        assert_eq!(chosen(None), Err("it has several images; name one of: x:1, localhost:5000/y:latest".to_owned()));
        assert_eq!(choose(&images[1..], None).map(|image| image.config.as_str()), Ok("b.json"));
    }

    #[test]
    fn invalid_image_lists_are_refused() {
        for wrong in ["", "{}", "[]", "[{}]", "[{\"Config\":\"a\",\"Layers\":[]}]", "[{\"Config\":1,\"Layers\":[\"l\"]}]"] {
            list(wrong.as_bytes()).expect_err(wrong);
        }
        let many = format!("[{{\"Config\":\"a\",\"Layers\":[{}]}}]", vec!["\"l\""; MAX_LAYERS + 1].join(","));
        assert!(list(many.as_bytes()).expect_err("too many").contains("513 layers"));
    }
}
