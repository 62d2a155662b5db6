//! Enums that list their own variants.

/// Declares an enum with an `ALL` array of its variants, so that schemas, help texts and tests which enumerate the
/// choices cannot miss one that is added later.
macro_rules! enumerated {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident { $($(#[$variant_attribute:meta])* $variant:ident),+ $(,)? }
    ) => {
        $(#[$attribute])*
        pub enum $name { $($(#[$variant_attribute])* $variant),+ }

        impl $name {
            /// Every variant, in order of declaration.
            pub const ALL: [Self; [$(stringify!($variant)),+].len()] = [$(Self::$variant),+];
        }
    };
}

pub(crate) use enumerated;
