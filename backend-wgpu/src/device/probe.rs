//! What a device does where WGSL leaves it a choice, found out by trying.

use wgpu::BufferUsages as Usage;

use super::{Access, Device};
use crate::error::WgpuError;
use crate::plan;
use crate::shaders::{self, Shader};

/// Subnormal halves, in the upper half of a word.
const NUMBERS: [u32; 4] = [1 << 16, 0x0080 << 16, 0x00F0 << 16, 0x03FF << 16];

/// Whether subnormal halves are numbers on this device.
pub(super) fn subnormal_halves(device: &Device) -> Result<bool, WgpuError> {
    let pipeline =
        device.pipeline(&Shader::new(&[shaders::PROBE], "probe"), &[Access::Read, Access::ReadWrite])?;
    let numbers = device.filled("a question", bytemuck::cast_slice(&NUMBERS), Usage::STORAGE);
    let answers = device.storage("an answer", 16)?;
    // The shader has no parameters, but the layout of all has a place for them.
    let nothing = device.filled("no parameters", &[0; 256], Usage::UNIFORM);
    let group = |layout: &wgpu::BindGroupLayout, buffers: [&wgpu::Buffer; 2]| {
        let entries = [0, 1].map(|binding| wgpu::BindGroupEntry {
            binding,
            resource: buffers[binding as usize].as_entire_binding(),
        });
        device.gpu.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
    };
    let storage = group(&pipeline.layout, [&numbers, &answers]);
    let uniforms = group(&device.uniforms(), [&nothing, &nothing]);
    let mut encoder = device.gpu.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline.compute);
        pass.set_bind_group(0, &storage, &[]);
        pass.set_bind_group(1, &uniforms, &[0]);
        pass.dispatch_workgroups(1, 1, 1);
    }
    device.queue.submit([encoder.finish()]);
    let mut got = [0.0f32; 4];
    plan::download(device, &answers, 0, bytemuck::cast_slice_mut(&mut got))?;
    let step = (-24.0f32).exp2();
    Ok(got.iter().zip(NUMBERS).all(|(&got, number)| got == (number >> 16) as f32 * step))
}
