//! Inference with a loaded model: its files, images to features, and one record per item from generated responses.

mod generation_plan;
mod model_files;
mod prefetch;
mod request_queue;
mod response_plan;
mod response_record;
mod response_writer;
mod vlm;

pub use self::generation_plan::GenerationPlan;
pub use self::model_files::ModelFiles;
pub use self::prefetch::Prefetcher;
pub use self::response_plan::{ImageRequest, Policy, PromptRequest, ResponsePlan, required};
pub use self::response_record::ResponseRecord;
pub use self::response_writer::{ResponseWriter, write_side_by_side};
pub use self::vlm::{ImageFeatures, Vlm};
