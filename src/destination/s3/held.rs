//! Batches held for other sinks: an object each, `held/<data directory>/<sink>/<positions>.batch` below the prefix.

use std::{fs, io, path::PathBuf, rc::Rc, sync::Arc};

use forebay_actors::{
    destination::{Delivery, DeliveryError, Receipt},
    holding::{Fetched, HeldKey, Holding, Released, pack},
    record::Batch,
};
use futures::FutureExt as _;
use object_store::{ObjectStoreExt as _, path::Path};

use super::{
    super::{blocking, io_failure, unreadable},
    S3Destination, Store, fault,
};

/// What their keys begin with, behind the prefix.
const PREFIX: &str = "held";

impl Holding for S3Destination {
    fn hold(&self, key: &HeldKey, batch: Arc<Batch>) -> Delivery {
        let (store, key) = (self.store.clone(), self.store.held_key(key));
        async move {
            let packed =
                blocking(move || pack(&batch).map_err(|e| unreadable(&batch, &e.to_string()))).await?;
            let bytes = packed.len() as u64;
            store.put_held(&key, packed.into()).await.map_err(|error| store.failed(&error))?;
            Ok(Receipt::of(bytes))
        }
        .boxed_local()
    }

    fn fetch(&self, key: &HeldKey) -> Fetched {
        let (store, key) = (self.store.clone(), self.store.held_key(key));
        async move { store.fetch_held(&key).await }.boxed_local()
    }

    fn release(&self, key: &HeldKey) -> Released {
        let (store, key) = (self.store.clone(), self.store.held_key(key));
        async move {
            match store.objects.delete(&key).await {
                Err(error) if !fault::is_no_such_object(&error) => return Err(store.failed(&error)),
                _ => {}
            }
            match store.path_of(&key) {
                Some(path) => blocking(move || remove_unfinished(&path)).await,
                None => Ok(()),
            }
        }
        .boxed_local()
    }
}

impl Store {
    fn held_key(&self, key: &HeldKey) -> Path {
        let name = format!("{}.batch", key.name());
        let segments = [PREFIX, &self.recipe.stream, key.owner.as_str(), &name];
        self.recipe.within(segments.map(str::to_owned))
    }

    async fn fetch_held(self: Rc<Self>, key: &Path) -> Result<Option<bytes::Bytes>, DeliveryError> {
        let found = match self.objects.get(key).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match found {
            Ok(packed) => Ok(Some(packed)),
            Err(error) if fault::is_no_such_object(&error) && self.has_place_of(key) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Whether what an object would lie in is there: of a directory that is not mounted nothing is gone.
    fn has_place_of(&self, key: &Path) -> bool {
        self.path_of(key).is_none_or(|path| path.parent().is_some_and(|directory| directory.is_dir()))
    }

    /// The file of an object, in a directory.
    fn path_of(&self, key: &Path) -> Option<PathBuf> {
        self.directory.as_ref().map(|root| root.join(key.as_ref()))
    }
}

/// Removes what a crash has left half-written: the library writes an object of a directory under its name, `#` and a number,
/// the next free one from 1 on.
fn remove_unfinished(path: &std::path::Path) -> Result<(), DeliveryError> {
    for number in 1_u64.. {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{number}"));
        match fs::remove_file(&name) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(io_failure(path, "remove a held batch", &e)),
        }
    }
    Ok(())
}
