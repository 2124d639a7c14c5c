//! What holds for every image that is taken, and for every error.

use std::path::Component;

use common::Result;
use common::oci::Image;

/// An image's paths are places in the container.
pub fn check(image: Result<Image>) {
    match image {
        Ok(Image { config, .. }) => {
            assert!(config.working_dir.iter().all(|path| path.is_absolute()), "{config:?}");
            for path in &config.volumes {
                let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
                assert!(path.is_absolute() && path.components().all(is_plain), "{path:?}");
            }
            assert!(config.user.is_none_or(|user| !user.is_empty()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
