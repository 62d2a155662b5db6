//! Tests that change the cluster itself, or that measure time. They run one at a time, after all others.

mod claims;
mod kueue;
mod leadership;
mod outage;
mod unreadable;
