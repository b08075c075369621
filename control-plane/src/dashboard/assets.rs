//! Style, script and icon, inside of the program. Their addresses change with their content, so that
//! browsers may keep them for good.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

pub(super) struct Asset {
    pub(super) path: String,
    pub(super) kind: &'static str,
    pub(super) content: &'static str,
}

pub(super) struct Assets {
    pub(super) style: Asset,
    pub(super) morph: Asset,
    pub(super) script: Asset,
    pub(super) icon: Asset,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: asset("app", "css", "text/css; charset=utf-8", include_str!("assets/app.css")),
    morph: asset("idiomorph", "js", SCRIPT, include_str!("assets/idiomorph-0.8.0.min.js")),
    script: asset("app", "js", SCRIPT, include_str!("assets/app.js")),
    icon: asset("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")),
});

const SCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) fn assets() -> &'static Assets {
    &ASSETS
}

impl Assets {
    pub(super) fn find(&self, path: &str) -> Option<&Asset> {
        [&self.style, &self.morph, &self.script, &self.icon]
            .into_iter()
            .find(|asset| asset.path == path)
    }
}

fn asset(name: &str, end: &str, kind: &'static str, content: &'static str) -> Asset {
    let digest = hex::encode(&Sha256::digest(content)[..8]);
    Asset { path: format!("/assets/{name}-{digest}.{end}"), kind, content }
}
