//! Images that are made in the registry itself, of one that it has: this machine needs no image for that.

use crate::cache::check::Checker;
use crate::engine::registry::Access;
use crate::engine::retry::retried;
use crate::engine::{EngineError, Image, LayerRequest, NoLog, Result};
use crate::key::{DiffId, Key, Kind};
use crate::plan::name;
use crate::retry::TRANSFER;

use super::{Pushed, Pushing, RegistryCache, ToPush, is_same};

impl RegistryCache {
    /// Returns what the registry has under a key and is to be trusted; `None` where it has nothing such.
    ///
    /// # Errors
    /// Those of the registry.
    pub async fn image(&self, kind: Kind, key: &Key) -> Result<Option<Image>> {
        let described = self.ask_trusted(&name::image(kind, key)).await?;
        let image = described.map(|described| described.image);
        Ok(image.filter(|image| image.platform.matches(&self.platform)))
    }

    /// Makes an image of one that the registry has: only the layers of the request travel. What the
    /// registry has under the key already stays, where it has the same layers.
    ///
    /// # Errors
    /// [`EngineError::NoSuchImage`] where the registry does not have the parent of the request, as that
    /// was looked at; [`EngineError::Refused`] where it has another build of the image.
    pub async fn add(
        &self,
        (kind, key): (Kind, &Key),
        (below, parent): (Kind, &Key),
        request: &LayerRequest,
    ) -> Result<Image> {
        let (name, parent) = (name::image(kind, key), name::image(below, parent));
        let missing = || EngineError::NoSuchImage { reference: parent.clone() };
        let known = self.ask_trusted(&parent).await?.ok_or_else(missing)?;
        if known.image.diff_ids != request.parent.diff_ids {
            return Err(missing());
        }
        let own = request.layers.iter().map(|layer| DiffId::from(layer.diff_id));
        let wanted: Vec<DiffId> = request.parent.diff_ids.iter().cloned().chain(own).collect();
        let other = || EngineError::Refused {
            action: format!("push `{name}`"),
            reason: "the registry has another build of it".to_owned(),
        };
        let there = match self.ask_trusted(&name).await {
            // So some registries say that there is no such repository. And what nobody signed gives way.
            Err(EngineError::Denied { .. } | EngineError::Unsigned { .. }) => None,
            there => there?,
        };
        if let Some(there) = there {
            return match there.image.diff_ids == wanted {
                true => Ok(there.image),
                false => Err(other()),
            };
        }
        let of = self.reference(&parent)?.at(&known.manifest)?;
        let of = self.client(Access::Pull, &of).await?;
        let to = self.open_for(Access::Push, &name).await?;
        let id = retried(&NoLog, TRANSFER, || to.add_layers(&of, request)).await?;
        // Another process may have been faster with another image.
        match self.ask(&name).await? {
            Some(there) if there.image.id == *id.as_str() => Ok(there.image),
            Some(there) if there.image.diff_ids == wanted => Ok(there.image),
            _ => Err(other()),
        }
    }

    /// Signs an image that [`RegistryCache::add`] gave, where images are signed, and says how it was built.
    ///
    /// # Errors
    /// [`EngineError::Refused`] where the registry has another image by now; those of the registry.
    pub async fn sign_added(
        &self,
        checker: &Checker<'_>,
        (kind, key): (Kind, Key),
        image: &Image,
    ) -> Result<()> {
        if self.signer.is_none() {
            return Ok(());
        }
        let name = name::image(kind, &key);
        let Some(there) = self.ask(&name).await?.filter(|there| is_same(image, there)) else {
            return Err(EngineError::Refused {
                action: format!("sign `{name}`"),
                reason: "the registry has another image under its name by now".to_owned(),
            });
        };
        let signing = Pushing::new(self, checker);
        if let Some(Pushed::Failed(reason)) = signing.sign(&name, image, &there).await? {
            return Err(EngineError::Refused { action: format!("sign `{name}`"), reason });
        }
        signing.attest(&ToPush { kind, key }, &name, image, &there).await
    }
}
