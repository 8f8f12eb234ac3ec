//! Pages of the device and pages of files.

use gemma4_core::program::StateSpec;

/// A page of a file as the device has it. Both are as long.
pub(super) fn to_device(_spec: &StateSpec, file: &[u8], device: &mut [u8]) {
    device.copy_from_slice(file);
}

/// The reverse of [`to_device`].
pub(super) fn to_file(_spec: &StateSpec, device: &[u8], file: &mut [u8]) {
    file.copy_from_slice(device);
}
