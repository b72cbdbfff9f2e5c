//! Results as pages, with the style and the functions of [`modelve_probe::html`].

use modelve_probe::html::Page;

/// `modelve why`: words, parts and proof.
pub const WHY: Page = Page::new("why", include_str!("why.js"));
/// `modelve patch`: layers by positions or heads.
pub const PATCH: Page = Page::new("patch", include_str!("patch.js"));
/// `modelve ablate`: before and after.
pub const ABLATE: Page = Page::new("ablate", include_str!("ablate.js"));
