//! [`Error`] and the statuses of gRPC and ttrpc, there and back.
//!
//! Over gRPC the code and the text go in the trailers as containerd's clients read them; fault, step, object and remedy go
//! beside them in `grpc-status-details-bin`: a `google.rpc.Status` whose detail is an Any of `crated.engine.v1.ErrorDetail`
//! under its bare name.

use crate::any;
use crate::crated::engine::v1::ErrorDetail;
use crate::google::rpc::Status as RpcStatus;
use crated_types::{Code, Error, Fault, Kind};
use prost::Message;

/// Full name of [`ErrorDetail`].
pub const DETAIL: &str = "crated.engine.v1.ErrorDetail";

/// Longest text of a status, in bytes: text and details together stay below the 16 KiB of headers that peers take.
const TEXT_MAX: usize = 2 << 10;
/// Longest remedy, step or object, in bytes.
const DETAIL_MAX: usize = 1 << 10;

fn clipped(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.into();
    }
    let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].into()
}

/// Cuts the middle out of a long text: what it is about and the class at its end both stay.
fn shortened(text: &str) -> String {
    if text.len() <= TEXT_MAX {
        return text.into();
    }
    let keep = 256;
    let tail = (text.len() - keep..text.len()).find(|start| text.is_char_boundary(*start)).unwrap_or(text.len());
    format!("{} … {}", clipped(text, TEXT_MAX - keep - 8), &text[tail..])
}

fn detail(error: &Error) -> ErrorDetail {
    let (kind, object) = error.object().map_or_else(Default::default, |(kind, id)| (kind.to_string(), id));
    ErrorDetail {
        fault: error.fault().id().into(),
        step: clipped(error.step().unwrap_or_default(), DETAIL_MAX),
        kind,
        object: clipped(object, DETAIL_MAX),
        remedy: clipped(error.remedy().unwrap_or_default(), DETAIL_MAX),
    }
}

/// The `google.rpc.Status` of an error, with its detail: for ttrpc, and for the details of gRPC.
#[must_use]
pub fn to_rpc_status(error: &Error) -> RpcStatus {
    RpcStatus {
        code: error.code() as i32,
        message: shortened(&error.to_string()),
        details: vec![any::pack(DETAIL, &detail(error))],
    }
}

/// The error of a `google.rpc.Status`; `None` for code 0, which is success.
#[must_use]
pub fn from_rpc_status(status: &RpcStatus) -> Option<Error> {
    if status.code == 0 {
        return None;
    }
    let detail = status.details.iter().find_map(|detail| any::unpack::<ErrorDetail>(DETAIL, detail).ok());
    Some(rebuilt(Code::from_i32(status.code), &status.message, detail.as_ref()))
}

/// The gRPC status of an error.
#[must_use]
pub fn to_status(error: &Error) -> tonic::Status {
    let status = to_rpc_status(error);
    let details = status.encode_to_vec();
    tonic::Status::with_details(tonic::Code::from_i32(status.code), status.message, details.into())
}

/// As [`to_status`], to be given to `map_err`.
#[must_use]
#[allow(clippy::needless_pass_by_value)]
pub fn from_error(error: Error) -> tonic::Status {
    to_status(&error)
}

/// The error of a gRPC status, with fault, step, object and remedy where the peer sent them.
#[must_use]
pub fn from_status(status: &tonic::Status) -> Error {
    let detail = RpcStatus::decode(status.details())
        .ok()
        .and_then(|status| status.details.iter().find_map(|detail| any::unpack::<ErrorDetail>(DETAIL, detail).ok()));
    rebuilt(Code::from_i32(status.code() as i32), status.message(), detail.as_ref())
}

fn rebuilt(code: Code, text: &str, detail: Option<&ErrorDetail>) -> Error {
    let Some(detail) = detail else { return Error::peer(code, text.to_owned()) };
    let fault = Fault::ALL.iter().copied().find(|fault| fault.id() == detail.fault && fault.code() == code);
    let kind = Kind::ALL.iter().copied().find(|kind| kind.to_string() == detail.kind);
    // The text names the object already; it is cut off so that the rebuilt error says it once.
    let mut what = text;
    let mut object = None;
    if let Some(kind) = kind
        && let Some(rest) = text.strip_prefix(&format!("{kind} {:?}", detail.object))
    {
        let (namespace, rest) = namespace_of(rest);
        if let Some(rest) = rest.strip_prefix(": ") {
            object = Some((kind, namespace));
            what = rest;
        }
    }
    let class = code.class();
    let what = what.strip_suffix(class).map_or(what, |rest| rest.strip_suffix(": ").unwrap_or(rest));
    let mut error = match fault {
        Some(fault) => Error::new(fault, what.to_owned()),
        None => Error::peer(code, what.to_owned()),
    };
    if let Some((kind, namespace)) = object {
        error = error.on(kind, &detail.object);
        if let Some(namespace) = namespace {
            error = error.in_namespace(namespace);
        }
    }
    if !detail.step.is_empty() {
        error = error.at(detail.step.clone());
    }
    if !detail.remedy.is_empty() {
        error = error.remedy_is(detail.remedy.clone());
    }
    error
}

/// Takes ` in namespace "x"` off the start.
fn namespace_of(rest: &str) -> (Option<&str>, &str) {
    rest.strip_prefix(" in namespace \"")
        .and_then(|rest| rest.split_once('"'))
        .map_or((None, rest), |(namespace, rest)| (Some(namespace), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(error: &Error) {
        for back in
            [from_status(&to_status(error)), from_rpc_status(&to_rpc_status(error)).expect("an error is no success")]
        {
            assert_eq!(back.to_string(), error.to_string());
            assert_eq!(back.code(), error.code());
            assert_eq!(back.fault(), error.fault(), "{error}");
            assert_eq!(back.step(), error.step());
            assert_eq!(back.remedy(), error.remedy());
            assert_eq!(back.object(), error.object());
        }
    }

    #[test]
    fn errors_survive_the_wire() {
        there_and_back(&Error::not_found(Kind::Container, "x").in_namespace("default"));
        there_and_back(&Error::not_found(Kind::Content, "sha256:ab"));
        there_and_back(&Error::invalid("container.id", "must not be empty"));
        there_and_back(&Error::precondition(Kind::Snapshot, "a \"b\"", "has children, cannot remove"));
        there_and_back(&Error::new(Fault::BadRegistry, "no digest").on(Kind::Registry, "r.example"));
        there_and_back(
            &Error::os("open /a", std::io::Error::from_raw_os_error(28))
                .at("write the blob")
                .remedy_is("free some space"),
        );
        for fault in Fault::ALL {
            there_and_back(&Error::new(*fault, "what it was").on(Kind::Task, "t").at("step").remedy_is("do this"));
        }
    }

    #[test]
    fn statuses_without_details_keep_code_and_text() {
        let error = from_status(&tonic::Status::permission_denied("not for you"));
        assert_eq!(
            (error.code(), error.to_string()),
            (Code::PermissionDenied, "not for you: permission denied".into())
        );
        let status = to_status(&Error::not_found(Kind::Image, "x"));
        assert_eq!((status.code(), status.message()), (tonic::Code::NotFound, "image \"x\": not found"));
        assert!(from_rpc_status(&RpcStatus::default()).is_none());
    }

    #[test]
    fn a_prefixed_detail_is_understood() {
        let mut status = to_rpc_status(&Error::new(Fault::NameInUse, "").on(Kind::Container, "web"));
        status.details[0].type_url.insert_str(0, "type.googleapis.com/");
        let error = from_rpc_status(&status).unwrap();
        assert_eq!(error.fault(), Fault::NameInUse);
    }

    #[test]
    fn a_long_text_is_cut_in_its_middle() {
        let status = to_status(&Error::not_found(Kind::Image, "é".repeat(40_000)));
        assert!(status.message().len() <= TEXT_MAX && status.details().len() < 2 * TEXT_MAX + 4 * DETAIL_MAX);
        assert!(status.message().starts_with("image") && status.message().ends_with(": not found"));
    }
}
