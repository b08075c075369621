//! Why a record of etcd is ignored.

/// The reason; [`Refused::code`] is its stable name, `Display` the sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refused {
    #[error("it is no sealed record")]
    Malformed,
    #[error("it is larger than 64 KiB")]
    TooLarge,
    #[error("it was not sealed with this cluster's secret, or was altered or moved afterwards")]
    WrongSecret,
    #[error("its signature is not the writer's")]
    BadSignature,
    #[error("it belongs to another cluster")]
    ForeignCluster,
    #[error("the cluster's id is not known yet")]
    UnknownCluster,
    #[error("its writer may not write there")]
    WrongWriter,
    #[error("its content breaks a rule")]
    BadRecord,
    #[error("a newer one of this writer was seen there")]
    RolledBack,
    #[error("its writer declared it void (floor)")]
    VoidByFloor,
    #[error("its writer was revoked")]
    RevokedWriter,
    #[error("it contradicts the network's accepted record")]
    Conflicting,
}

impl Refused {
    /// Stable and lower case with dashes, for counters and status.
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too-large",
            Self::WrongSecret => "wrong-secret",
            Self::BadSignature => "bad-signature",
            Self::ForeignCluster => "foreign-cluster",
            Self::UnknownCluster => "unknown-cluster",
            Self::WrongWriter => "wrong-writer",
            Self::BadRecord => "bad-record",
            Self::RolledBack => "rolled-back",
            Self::VoidByFloor => "void-by-floor",
            Self::RevokedWriter => "revoked-writer",
            Self::Conflicting => "conflicting",
        }
    }
}
