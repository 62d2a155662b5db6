//! Asks a judge, a model behind OpenAI's chat completions API, about answers that no rule can score: over HTTP, with patience,
//! within a budget, and so that no reply is paid for twice.

mod backoff;
mod budget;
mod client;
mod clock;
mod exchange;
mod judge;
mod pace;
mod prompts;
#[cfg(test)]
mod testing;

pub use self::backoff::Patience;
pub use self::budget::Budget;
pub use self::client::api_key;
pub use self::exchange::{Case, Ended, Exchanges, JudgeReply, Standing};
pub use self::judge::Judge;
pub use self::prompts::Prompt;
