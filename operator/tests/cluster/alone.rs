//! What changes the cluster itself under all others, and what measures time: these run one by one, when the others are
//! done.

mod claims;
mod kueue;
mod leadership;
mod outage;
mod unreadable;
