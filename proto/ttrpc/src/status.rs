//! [`Error`] and `google.rpc.Status`, there and back.

use crated_api::google::rpc::Status;
use crated_api::status::{from_rpc_status, to_rpc_status};
use crated_types::{Code, Error};

/// The status of an error, with its details, for the wire.
#[must_use]
pub fn to_status(error: &Error) -> Status {
    to_rpc_status(error)
}

/// A status of code and text.
#[must_use]
pub fn status(code: Code, text: impl Into<String>) -> Status {
    Status { code: code as i32, message: text.into(), details: Vec::new() }
}

/// The error of a status of a peer; `None` for none and for code 0, which is success.
#[must_use]
pub fn from_status(status: Option<Status>) -> Option<Error> {
    from_rpc_status(&status?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_types::Kind;

    #[test]
    fn code_and_text_survive_the_wire() {
        let error = Error::not_found(Kind::Exec, "e");
        let back = from_status(Some(to_status(&error))).unwrap();
        assert_eq!((back.code(), back.to_string()), (error.code(), error.to_string()));
        assert!(from_status(None).is_none());
        assert!(from_status(Some(Status::default())).is_none());
        let plain = Error::peer(Code::Unknown, "cannot pause task in created state");
        assert_eq!(to_status(&plain).message, "cannot pause task in created state");
    }
}
