//! `containerd.services.images.v1.Images`.

use super::{Answer, answer, convert, filters, mask, scope};
use crated_api::containerd::services::images::v1 as wire;
use crated_api::containerd::services::images::v1::images_server::Images;
use crated_api::status::from_error;
use crated_core::ImageStore;
use crated_types::Digest;
use std::sync::Arc;
use tonic::{Request, Response, async_trait};

/// Over the port of images.
#[derive(Clone, Debug)]
pub struct ImagesAdapter(pub Arc<dyn ImageStore>);

#[async_trait]
impl Images for ImagesAdapter {
    async fn get(&self, request: Request<wire::GetImageRequest>) -> Answer<wire::GetImageResponse> {
        let scope = scope(&request)?;
        let found = self.0.get(&scope, &request.get_ref().name).await.map_err(from_error)?;
        Ok(Response::new(wire::GetImageResponse { image: Some(convert::image(found)) }))
    }

    async fn list(&self, request: Request<wire::ListImagesRequest>) -> Answer<wire::ListImagesResponse> {
        let (scope, filters) = (scope(&request)?, filters(&request.get_ref().filters)?);
        let all = self.0.list(&scope, &filters).await.map_err(from_error)?;
        Ok(Response::new(wire::ListImagesResponse { images: all.into_iter().map(convert::image).collect() }))
    }

    async fn create(&self, request: Request<wire::CreateImageRequest>) -> Answer<wire::CreateImageResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let asked = convert::image_record(request.image.unwrap_or_default(), request.source_date_epoch);
        let made = self.0.create(&scope, asked).await.map_err(from_error)?;
        Ok(Response::new(wire::CreateImageResponse { image: Some(convert::image(made)) }))
    }

    async fn update(&self, request: Request<wire::UpdateImageRequest>) -> Answer<wire::UpdateImageResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let asked = convert::image_record(request.image.unwrap_or_default(), request.source_date_epoch);
        let made = self.0.update(&scope, asked, &mask(request.update_mask)).await.map_err(from_error)?;
        Ok(Response::new(wire::UpdateImageResponse { image: Some(convert::image(made)) }))
    }

    async fn delete(&self, request: Request<wire::DeleteImageRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let target = match request.target.filter(|target| !target.digest.is_empty()) {
            Some(target) => Some(target.digest.parse::<Digest>().map_err(from_error)?),
            None => None,
        };
        answer(self.0.delete(&scope, &request.name, target.as_ref(), request.sync).await)
    }
}
