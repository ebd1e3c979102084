//! Encodes an image's configuration as OCI JSON, with sorted keys and no spaces.

use std::collections::{BTreeMap, HashMap};

use oci_spec::image::{ConfigBuilder, ImageConfiguration, ImageConfigurationBuilder, Os, RootFsBuilder};
use silo_store::digest::LayerId;

use silo_base::system::Arch;
use silo_base::timestamp;

/// The contents of an image's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The architecture.
    pub arch: Arch,
    /// The image's date in seconds since 1970: its SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// The layers, lowest first.
    pub layers: Vec<LayerId>,
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// Default arguments for a run without arguments. If `None`, arguments of a run replace the whole command.
    pub arguments: Option<Vec<String>>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The foreign architectures of the packages, sorted.
    pub foreign: Vec<String>,
}

/// The label of the foreign architectures, in an image that has some.
const FOREIGN: &str = "silo.foreign-architectures";

impl Image {
    /// Returns the layers as a set, for marking.
    pub fn layer_set(&self) -> std::collections::BTreeSet<LayerId> {
        self.layers.iter().copied().collect()
    }
}

/// Encodes a configuration; equal images give equal bytes.
pub fn write(image: &Image) -> Vec<u8> {
    let config = ConfigBuilder::default().env(image.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>());
    let config = match &image.arguments {
        Some(arguments) => config.entrypoint(image.command.clone()).cmd(arguments.clone()),
        None => config.cmd(image.command.clone()),
    };
    let config = match image.foreign.is_empty() {
        true => config,
        false => config.labels(HashMap::from([(FOREIGN.to_owned(), image.foreign.join(","))])),
    };
    let config = config.build();
    let diff_ids: Vec<String> = image.layers.iter().map(LayerId::oci).collect();
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build();
    let built = config.and_then(|config| {
        ImageConfigurationBuilder::default()
            .created(timestamp::rfc3339(image.epoch))
            .architecture(image.arch.name())
            .os(Os::Linux)
            .config(config)
            .rootfs(rootfs?)
            .build()
    });
    let value = built.map(serde_json::to_value).expect("every required field is set").expect("the configuration has string keys only");
    // `serde_json::Value` sorts its keys, so the order of the type's fields does not matter.
    value.to_string().into_bytes()
}

/// Decodes a configuration.
pub fn read(bytes: &[u8]) -> Result<Image, String> {
    let parsed: ImageConfiguration = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let arch: Arch = parsed.architecture().to_string().parse().map_err(|error: silo_base::system::UnknownArch| error.to_string())?;
    let layers = parsed.rootfs().diff_ids().iter().map(|id| {
        let hex = id.strip_prefix("sha256:").ok_or_else(|| format!("diff id \"{id}\""))?;
        LayerId::parse(hex).map_err(|error| error.to_string())
    });
    let config = parsed.config().as_ref();
    let label = config.and_then(|config| config.labels().as_ref()?.get(FOREIGN).cloned());
    let foreign = label.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect();
    let (entrypoint, cmd) = (config.and_then(|config| config.entrypoint().clone()), config.and_then(|config| config.cmd().clone()));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Ok(Image {
        arch,
        epoch: parsed.created().as_deref().and_then(timestamp::parse_rfc3339).ok_or("no creation date")?,
        layers: layers.collect::<Result<_, _>>()?,
        command: entrypoint.clone().or_else(|| cmd.clone()).unwrap_or_default(),
        arguments: entrypoint.map(|_| cmd.unwrap_or_default()),
        env: config.iter().flat_map(|config| config.env()).flatten().filter_map(|pair| pair.split_once('=')).map(owned).collect(),
        foreign,
    })
}
