//! All devices of the engine. Calls for one device queue up; devices do not wait for each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use tracing::info;
use wgnet_engine::wire::Malformed;
use wgnet_engine::{DeviceId, DeviceState, NewDevice, Operation, OperationFailure};

use crate::device::{Device, DeviceError};

type Slot = Arc<AsyncMutex<Option<Device>>>;

#[derive(Clone, Default)]
pub(crate) struct Devices {
    slots: Arc<Mutex<BTreeMap<DeviceId, Slot>>>,
}

impl Devices {
    /// `false` if the same device runs already. A dead one of that name is replaced.
    pub(crate) async fn create(&self, new: NewDevice) -> Result<bool, DeviceError> {
        let slot = self.slot(&new.id);
        let mut slot = slot.lock().await;
        if let Some(device) = slot.as_ref()
            && device.why_dead().await.is_none()
        {
            return device.is_as(&new).map(|()| false);
        }
        if let Some(dead) = slot.take() {
            dead.delete().await?;
        }
        let id = new.id.clone();
        *slot = Some(Device::create(new).await?);
        info!(device = %id, "Made device");
        Ok(true)
    }

    pub(crate) async fn delete(&self, id: &DeviceId) -> Result<bool, DeviceError> {
        let slot = self.slot(id);
        let Some(device) = slot.lock().await.take() else {
            return Ok(false);
        };
        device.delete().await?;
        info!(device = %id, "Deleted device");
        Ok(true)
    }

    pub(crate) async fn list(&self) -> Vec<DeviceId> {
        let mut ids = Vec::new();
        for (id, slot) in self.all() {
            if slot.lock().await.is_some() {
                ids.push(id);
            }
        }
        ids
    }

    pub(crate) async fn state(&self, id: &DeviceId) -> Option<DeviceState> {
        let slot = self.slot(id);
        let slot = slot.lock().await;
        Some(slot.as_ref()?.state().await)
    }

    pub(crate) async fn configure(
        &self,
        id: &DeviceId,
        operations: Vec<Result<Operation, Malformed>>,
    ) -> Option<Result<Vec<OperationFailure>, DeviceError>> {
        let slot = self.slot(id);
        let mut slot = slot.lock().await;
        Some(slot.as_mut()?.configure(operations).await)
    }

    /// Ends all devices; the number of those that could not be ended cleanly is the error.
    pub(crate) async fn close(&self) -> Result<(), usize> {
        let mut stuck = 0;
        for (_, slot) in self.all() {
            if let Some(device) = slot.lock().await.take()
                && device.delete().await.is_err()
            {
                stuck += 1;
            }
        }
        if stuck == 0 { Ok(()) } else { Err(stuck) }
    }

    fn all(&self) -> Vec<(DeviceId, Slot)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|(id, slot)| (id.clone(), Arc::clone(slot))).collect()
    }

    fn slot(&self, id: &DeviceId) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else can hold or get a slot now: an empty one that only the map knows is done with.
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|device| device.is_some())
        });
        Arc::clone(slots.entry(id.clone()).or_default())
    }
}
