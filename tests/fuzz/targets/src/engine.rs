//! What driver and userspace engine say to each other.

use prost::Message;
use wgnet_engine::wire::proto::{
    self, Request, Response, request::Call, response::Result as Answer,
};
use wgnet_engine::wire::{self, read_frame};
use wgnet_engine::{DeviceId, DeviceState, NewDevice, Operation, OperationFailure};

/// Frames the engine could get: each is refused, or means the same when it is said again.
pub(crate) fn request(bytes: &[u8]) {
    for request in frames::<Request>(bytes) {
        match request.call {
            Some(Call::CreateDevice(call)) => {
                let Ok(new) = NewDevice::try_from(call) else { continue };
                assert!(new.port != 0 && new.mtu >= 576);
                device(&new.id);
                assert!(format!("{new:?}").contains("private_key: SecretKey(..)"));
                let said = proto::CreateDevice::from(&new);
                let again = NewDevice::try_from(said.clone()).expect("it was said by us");
                assert!(proto::CreateDevice::from(&again) == said);
            }
            Some(Call::DeleteDevice(call)) => named(call.device),
            Some(Call::GetDevice(call)) => named(call.device),
            Some(Call::Configure(call)) => {
                named(call.device);
                call.operations.into_iter().for_each(operation);
            }
            Some(Call::Hello(_) | Call::ListDevices(_)) | None => {}
        }
    }
}

fn named(reference: Option<proto::DeviceRef>) {
    match wire::device_id(reference) {
        Ok(id) => device(&id),
        Err(malformed) => crate::assert_sentence(&malformed.to_string()),
    }
}

fn device(id: &DeviceId) {
    assert!(id.namespace.is_absolute() && (1..=15).contains(&id.ifname.len()));
    assert!(id.ifname.bytes().all(|b| b.is_ascii_graphic() && b != b'/'));
    assert_eq!(DeviceId::try_from(proto::DeviceRef::from(id)).as_ref(), Ok(id));
}

fn operation(message: proto::Operation) {
    let Ok(operation) = Operation::try_from(message) else { return };
    let said = proto::Operation::from(&operation);
    let again = Operation::try_from(said.clone()).expect("it was said by us");
    assert!(proto::Operation::from(&again) == said);
}

/// Frames the driver could get.
pub(crate) fn response(bytes: &[u8]) {
    for response in frames::<Response>(bytes) {
        match response.result {
            Some(Answer::Device(state)) => {
                let Ok(state) = DeviceState::try_from(state) else { continue };
                let again = DeviceState::try_from(proto::Device::from(state.clone()));
                assert_eq!(again, Ok(state));
            }
            Some(Answer::DeviceList(list)) => {
                list.devices.into_iter().for_each(|reference| named(Some(reference)));
            }
            Some(Answer::Configured(configured)) => {
                for failure in configured.failures {
                    let failure = OperationFailure::from(failure);
                    let again =
                        OperationFailure::from(proto::OperationFailure::from(failure.clone()));
                    assert_eq!(again, failure);
                }
            }
            _ => {}
        }
    }
}

/// The messages of a stream up to its end or its first wrong one, each the same when written again.
fn frames<M: Message + Default + PartialEq>(mut stream: &[u8]) -> Vec<M> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    runtime.block_on(async {
        let mut messages = Vec::new();
        while let Ok(Some(message)) = read_frame::<M>(&mut stream).await {
            let mut written = Vec::new();
            wire::write_frame(&mut written, &message).await.expect("it is memory");
            let again = read_frame::<M>(&mut written.as_slice()).await;
            assert!(again.is_ok_and(|again| again.as_ref() == Some(&message)));
            messages.push(message);
        }
        messages
    })
}

fn frame(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).expect("it is short");
    [&length.to_be_bytes()[..], &body].concat()
}

fn reference() -> Option<proto::DeviceRef> {
    Some(proto::DeviceRef {
        namespace: b"/run/netns/wgnet-m3v0gvk6pj5e".to_vec(),
        ifname: "wg0".to_owned(),
    })
}

fn addresses() -> Vec<proto::AllowedIp> {
    vec![
        proto::AllowedIp { address: vec![10, 50, 0, 2], prefix: 32 },
        proto::AllowedIp { address: vec![0xfd; 16], prefix: 128 },
    ]
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    use proto::operation::Kind;
    let list = || proto::AllowedIps { public_key: vec![5; 32], allowed_ips: addresses() };
    let peer = proto::AddOrUpdatePeer {
        public_key: vec![5; 32],
        preshared_key: Some(vec![6; 32]),
        underlay_address: Some("192.0.2.1:51820".to_owned()),
        keepalive_seconds: Some(25),
    };
    let operations = [
        Kind::AddOrUpdatePeer(peer),
        Kind::RemovePeer(proto::RemovePeer { public_key: vec![5; 32] }),
        Kind::AddAllowedIps(list()),
        Kind::RemoveAllowedIps(list()),
        Kind::ReplaceAllowedIps(list()),
    ];
    let operations = operations.map(|kind| proto::Operation { kind: Some(kind) }).to_vec();
    let new = proto::CreateDevice {
        device: reference(),
        private_key: vec![7; 32],
        port: 51820,
        mtu: 1420,
    };
    let calls = [
        Call::Hello(proto::Hello { protocol: wire::PROTOCOL, want_digest: true }),
        Call::CreateDevice(new),
        Call::DeleteDevice(proto::DeleteDevice { device: reference() }),
        Call::ListDevices(proto::ListDevices {}),
        Call::GetDevice(proto::GetDevice { device: reference() }),
        Call::Configure(proto::Configure { device: reference(), operations }),
    ];
    calls.into_iter().map(|call| frame(&Request { id: 1, call: Some(call) })).collect()
}

pub(crate) fn response_seeds() -> Vec<Vec<u8>> {
    let peer = proto::Peer {
        public_key: vec![5; 32],
        has_preshared_key: true,
        underlay_address: "192.0.2.1:51820".to_owned(),
        keepalive_seconds: 25,
        allowed_ips: addresses(),
        last_handshake_ms: Some(1000),
        rx_bytes: 1,
        tx_bytes: 2,
    };
    let device = proto::Device {
        public_key: vec![8; 32],
        port: 51820,
        mtu: 1420,
        dead: "its link was deleted".to_owned(),
        peers: vec![peer],
    };
    let failure = proto::OperationFailure {
        index: 1,
        code: proto::Code::NotFound.into(),
        text: "there is no such peer".to_owned(),
    };
    let answers = [
        Answer::Device(device),
        Answer::DeviceList(proto::DeviceList { devices: reference().into_iter().collect() }),
        Answer::Configured(proto::Configured { failures: vec![failure] }),
        Answer::Failure(proto::Failure {
            code: proto::Code::Internal.into(),
            text: "no".to_owned(),
        }),
    ];
    answers.into_iter().map(|answer| frame(&Response { id: 1, result: Some(answer) })).collect()
}
