//! Where the files of a step are mounted in its container.

/// The folder of the run config.
pub const CONFIG_DIR: &str = "/etc/stic";
/// The run config in that folder, and the key of the ConfigMap that holds it.
pub const CONFIG_FILE: &str = "run-config.json";
/// The folder in the output path where the driver keeps the kernels that it has compiled for a GPU, for later pods.
pub const COMPILED_KERNELS: &str = ".cuda-cache";
/// The folder under which each volume is mounted.
pub const VOLUMES_DIR: &str = "/volumes";
