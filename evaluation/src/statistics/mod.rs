//! Intervals of scores and of paired differences, and the smallest difference that data can show.
