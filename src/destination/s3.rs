//! `type: s3`: each batch becomes objects, one for each signal, service and hour that its key tells apart.
//!
//! - The key of an object names the data directory, the batch and what the events have in common, and nothing else: a batch
//!   that comes again after a crash writes the same objects again, with the same bytes. So an event is in one object.
//! - Delivered means that the store answered for every object of the batch, or that the directory is synced.
//! - A batch that comes in halves, because some of it was refused, has keys of its own.
//! - An object over `MULTIPART_BYTES` goes in parts. What a crash leaves of one is no object; S3 and Google keep and charge for
//!   such parts until a lifecycle rule of the bucket removes them (`AbortIncompleteMultipartUpload`), Azure for a week.
//! - A store that names a time (`Retry-After`) is not asked before.
//! - Nothing a store answers is the fault of single events, so nothing is ever rejected: it waits.
//!
//! Limits: a batch is held once more encoded; `UPLOADS_MAX` objects are on their way at a time, in at most
//! `PARTS_MAX` parts each.

mod client;
mod columns;
mod fault;
mod held;
mod objects;

use std::{fmt, path::PathBuf, rc::Rc, sync::Arc};

use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, Receipt, Verdict},
    examination::Examination,
    holding::Holding,
    record::Batch,
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::LocalBoxFuture, stream};
use object_store::{
    Attribute, AttributeValue, Attributes, Error, ObjectStore, ObjectStoreExt as _, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, UpdateVersion, WriteMultipart, local::LocalFileSystem,
    path::Path,
};

use self::{
    client::Heard,
    objects::{Object, Recipe},
};
use super::{
    blocking,
    http::{endpoint_url, without_secrets},
    unbuildable,
};
use crate::config::{Cloud, S3Format, S3Place, S3Sink};

/// From here on an object goes in parts: a single request of more is slow to repeat.
const MULTIPART_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a part; Amazon wants 5 MiB at least.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts of an object that are on their way at a time.
const PARTS_MAX: usize = 2;
/// Objects of a batch that are on their way at a time.
const UPLOADS_MAX: usize = 4;
/// The key that a probe asks for: nothing of this name is ever written.
const PROBE: &str = ".forebay-probe";
/// What no object of Google's has: theirs are times in microseconds.
const NO_GENERATION: &str = "1";
/// What no object of Azure's has: theirs are times, too.
const NO_ETAG: &str = "\"0x0\"";

/// Writes batches as objects.
pub struct S3Destination {
    store: Rc<Store>,
}

struct Store {
    objects: Arc<dyn ObjectStore>,
    /// The bucket or the directory, for messages.
    place: String,
    recipe: Arc<Recipe>,
    options: S3Sink,
    /// Whose store; `None` for a directory.
    cloud: Option<Cloud>,
    /// Where it is one.
    directory: Option<PathBuf>,
    heard: Heard,
}

// === impl S3Destination ===

impl S3Destination {
    /// A destination that has not connected yet. Reads certificates; makes the directory where there is none.
    ///
    /// # Errors
    /// [`Cause::Build`] where the options or the certificates cannot be used.
    pub fn new(options: &S3Sink) -> Result<Self, DeliveryError> {
        let template = options.key.parse().map_err(|why| unbuildable(format!("the key {why}")))?;
        let place = options.place().map_err(|why| unbuildable(format!("the url {why}")))?;
        let heard = Heard::default();
        let (objects, shown, prefix): (Arc<dyn ObjectStore>, _, _) = match &place {
            S3Place::Directory(path) => {
                let failed = |error: &dyn fmt::Display| unbuildable(format!("{}: {error}", path.display()));
                std::fs::create_dir_all(path).map_err(|error| failed(&error))?;
                let directory = LocalFileSystem::new_with_prefix(path).map_err(|error| failed(&error))?;
                (Arc::new(directory.with_fsync(true)), path.display().to_string(), String::new())
            }
            S3Place::Bucket { cloud, bucket, prefix } => {
                let endpoint = options.endpoint.as_deref().map(endpoint_url).transpose()?;
                let shown = match &endpoint {
                    Some(endpoint) => {
                        format!("{}/{bucket}", without_secrets(endpoint).as_str().trim_end_matches('/'))
                    }
                    None => format!("{}{bucket}", cloud.scheme()),
                };
                (client::of(options, *cloud, bucket, &heard)?, shown, prefix.clone())
            }
        };
        let recipe = Recipe { template, prefix, format: options.format, stream: String::new() };
        let (cloud, directory) = match place {
            S3Place::Directory(path) => (None, Some(path)),
            S3Place::Bucket { cloud, .. } => (Some(cloud), None),
        };
        let store = Store {
            objects,
            place: shown,
            recipe: Arc::new(recipe),
            options: options.clone(),
            cloud,
            directory,
            heard,
        };
        Ok(Self { store: Rc::new(store) })
    }

    /// The same with `stream` in every key: positions begin at 0 in every data directory, and an object of another one
    /// must not be overwritten.
    pub fn of_stream(mut self, stream: &str) -> Self {
        let store =
            Rc::get_mut(&mut self.store).expect("nobody else holds a destination that is being built");
        let recipe =
            Arc::get_mut(&mut store.recipe).expect("nobody else holds a destination that is being built");
        stream.clone_into(&mut recipe.stream);
        self
    }
}

impl fmt::Debug for S3Destination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Destination").field(&self.store.place).finish()
    }
}

impl Destination for S3Destination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let store = self.store.clone();
        async move { store.write(batch).await }.boxed_local()
    }

    /// Begins an upload in parts and gives it up, or asks for a change of what is not there. That takes the right to write, and
    /// neither makes an object nor removes one: nobody is told of it, versions and locks of the bucket stay out of it.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let store = self.store.clone();
        async move { store.look().await.map(drop) }.boxed_local()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        let store = self.store.clone();
        async move { store.examine().await }.boxed_local()
    }

    fn holding(&self) -> Option<&dyn Holding> {
        Some(self)
    }
}

// === impl Store ===

impl Store {
    async fn write(&self, batch: Arc<Batch>) -> Result<Receipt, DeliveryError> {
        let recipe = self.recipe.clone();
        let objects = blocking(move || recipe.objects(&batch)).await?;
        let sent = stream::iter(objects)
            .map(|object| self.put(object))
            .buffer_unordered(UPLOADS_MAX)
            .try_fold(0, |sent, bytes| async move { Ok(sent + bytes) })
            .await?;
        Ok(Receipt::of(sent))
    }

    /// Writes one object; the bytes of it that were sent.
    async fn put(&self, Object { key, body }: Object) -> Result<u64, DeliveryError> {
        let bytes = body.len() as u64;
        let put = if body.len() > MULTIPART_BYTES && !self.is_directory() {
            // The end of a multipart upload takes no condition.
            if !self.options.overwrite {
                match self.objects.head(&key).await {
                    Ok(_) => return Ok(0),
                    // It is not there, or must not be looked at; what else is wrong the upload says in better words.
                    Err(error) if fault::cause(&error) == Cause::Refused => {}
                    Err(error) => return Err(self.failed(&error)),
                }
            }
            self.put_parts(&key, body, self.attributes(self.content_type())).await.map(|()| bytes)
        } else {
            let mode = if self.options.overwrite { PutMode::Overwrite } else { PutMode::Create };
            let attributes = self.attributes(self.content_type());
            let options = PutOptions { mode, attributes, ..PutOptions::default() };
            self.objects.put_opts(&key, body.into(), options).await.map(|_| bytes)
        };
        match put {
            // The key is that of these events: they were written before, and the answer got lost.
            Err(error) if !self.options.overwrite && fault::is_there(&error, self.is_directory()) => Ok(0),
            put => put.map_err(|error| self.failed(&error)),
        }
    }

    /// Writes what is held for another sink, over whatever has its key.
    async fn put_held(&self, key: &Path, body: bytes::Bytes) -> Result<(), Error> {
        let attributes = self.attributes("application/octet-stream");
        if body.len() > MULTIPART_BYTES && !self.is_directory() {
            return self.put_parts(key, body, attributes).await;
        }
        let options = PutOptions { attributes, ..PutOptions::default() };
        self.objects.put_opts(key, body.into(), options).await.map(drop)
    }

    async fn put_parts(&self, key: &Path, body: bytes::Bytes, attributes: Attributes) -> Result<(), Error> {
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = self.objects.put_multipart_opts(key, options).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        for at in (0..body.len()).step_by(PART_BYTES) {
            if let Err(error) = parts.wait_for_capacity(PARTS_MAX).await {
                // The failure counts, whatever becomes of the parts that are there.
                let _ = parts.abort().await;
                return Err(error);
            }
            parts.put(body.slice(at..body.len().min(at + PART_BYTES)));
        }
        parts.finish().await.map(drop)
    }

    fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    fn content_type(&self) -> &'static str {
        // Not `Content-Encoding: gzip`, which makes some clients unpack what its name says is packed.
        match self.options.format {
            S3Format::Ndjson => "application/gzip",
            S3Format::Parquet => "application/vnd.apache.parquet",
        }
    }

    fn attributes(&self, kind: &'static str) -> Attributes {
        let mut attributes = Attributes::new();
        if self.is_directory() {
            return attributes;
        }
        attributes.insert(Attribute::ContentType, kind.into());
        if let Some(class) = &self.options.storage_class {
            attributes.insert(Attribute::StorageClass, AttributeValue::from(class.clone()));
        }
        attributes
    }

    /// Whether an object could be written; what to know besides.
    async fn look(&self) -> Result<Option<String>, DeliveryError> {
        let key = self.recipe.within([PROBE.to_owned()]);
        match self.cloud {
            // Azure knows no beginning of an upload and no giving up.
            Some(Cloud::Google | Cloud::Azure) => self.look_by_condition(&key).await.map(|()| None),
            Some(Cloud::S3) | None => self.look_by_upload(&key).await,
        }
    }

    /// Asks for a new version of what has none: the store refuses that of whoever may write.
    async fn look_by_condition(&self, key: &Path) -> Result<(), DeliveryError> {
        let none = UpdateVersion { e_tag: Some(NO_ETAG.to_owned()), version: Some(NO_GENERATION.to_owned()) };
        match self.objects.put_opts(key, PutPayload::new(), PutMode::Update(none).into()).await {
            Ok(_) | Err(Error::Precondition { .. }) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn look_by_upload(&self, key: &Path) -> Result<Option<String>, DeliveryError> {
        let attributes = self.attributes(self.content_type());
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = self.objects.put_multipart_opts(key, options).await;
        let given_up = upload.map_err(|error| self.failed(&error))?.abort().await;
        Ok(given_up.err().map(|error| {
            let words = fault::words(&error);
            format!(
                "{}: an upload that was begun to see whether that may be could not be given up ({words}); it holds no bytes",
                self.place
            )
        }))
    }

    async fn examine(&self) -> Examination {
        let looked = self.look().await;
        let clock = self.heard.clock();
        let found = match looked {
            Ok(note) => Examination { note, ..Examination::fit() },
            Err(error) if fault::is_no_bucket(&error.message) => Examination::unfit(error.message),
            Err(error) => Examination::failed(&error),
        };
        found.with_clock(clock)
    }

    fn failed(&self, error: &Error) -> DeliveryError {
        let cause = if self.is_directory() { Cause::Io } else { fault::cause(error) };
        let mut failed = DeliveryError::transient(cause, format!("{}: {}", self.place, fault::words(error)));
        if matches!(cause, Cause::Throttled | Cause::Server) {
            failed.verdict = Verdict::Retry { after: self.heard.wait() };
        }
        failed
    }
}
