//! Passes over whole sequences: forward alone, and forward with a backward pass after it.

use std::collections::HashMap;

use candle_core::{Tensor, Var};

use super::super::lora::Adapted;
use super::super::{Gradients, Mode};
use super::attention::Past;
use super::rope::Context;
use super::{LanguageModel, Layout};
use crate::error::Result;
use crate::io::stop::Stop;

/// What bounds a training pass. No result depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// Ends a pass between two layers.
    pub stop: &'a Stop,
    /// Bytes that the graphs of layers may take from the forward pass to the backward one: of as many layers as fit
    /// the graph is kept, of the others the input, from which they are run again.
    pub graph_bytes: u64,
}

/// What a forward pass keeps of every layer for [`LanguageModel::backward`].
pub struct Checkpoints {
    /// First layer first.
    layers: Vec<Checkpoint>,
    context: Context,
}

enum Checkpoint {
    Input(Tensor),
    Graph(LayerGraph),
}

/// A layer that was run, from its input on.
struct LayerGraph {
    input: Var,
    output: Tensor,
}

impl LanguageModel {
    /// Embeddings `[tokens, hidden]` laid out as `layout` says, to the last hidden states before the final norm.
    ///
    /// # Errors
    /// [`crate::error::Error::Interrupted`] between two layers; those of the tensor library.
    pub fn forward(
        &self,
        embeddings: &Tensor,
        layout: &Layout,
        adapter: Option<Adapted<'_>>,
        stop: &Stop,
    ) -> Result<Tensor> {
        let context = self.rope.context(layout, embeddings.device())?;
        let mut state = embeddings.unsqueeze(0)?;
        for index in 0..self.layers.len() {
            stop.check()?;
            state = self.infer_layer(index, &state, &context, adapter)?;
        }
        Ok(state.squeeze(0)?)
    }

    /// As [`LanguageModel::forward`], with what [`LanguageModel::backward`] needs.
    ///
    /// # Errors
    /// As [`LanguageModel::forward`].
    pub fn forward_checkpointed(
        &self,
        embeddings: &Tensor,
        layout: &Layout,
        adapter: Adapted<'_>,
        limits: Limits<'_>,
    ) -> Result<(Tensor, Checkpoints)> {
        let context = self.rope.context(layout, embeddings.device())?;
        let mut state = embeddings.unsqueeze(0)?.detach();
        let mut layers = Vec::with_capacity(self.layers.len());
        let mut room = Room { bytes: limits.graph_bytes, last: 0 };
        for index in 0..self.layers.len() {
            limits.stop.check()?;
            if room.may_take_another() {
                let graph = self.run_layer(index, &state, &context, adapter)?;
                let output = graph.output.detach();
                let fits = room.take(graph_bytes(&graph.output));
                layers.push(if fits { Checkpoint::Graph(graph) } else { Checkpoint::Input(state) });
                state = output;
            } else {
                let output = self.infer_layer(index, &state, &context, Some(adapter))?;
                layers.push(Checkpoint::Input(state));
                state = output;
            }
        }
        Ok((state.squeeze(0)?, Checkpoints { layers, context }))
    }

    /// Goes back through the layers and adds to `gradients` what `gradient` `[tokens, hidden]` (of the last hidden
    /// states) means for every tensor of the adapter. What was kept of a layer is freed as it is used.
    ///
    /// # Errors
    /// As [`LanguageModel::forward`]; `gradients` then holds those of some layers.
    pub fn backward(
        &self,
        checkpoints: Checkpoints,
        gradient: &Tensor,
        adapter: Adapted<'_>,
        gradients: &mut Gradients,
        stop: &Stop,
    ) -> Result<()> {
        let Checkpoints { mut layers, context } = checkpoints;
        let mut gradient = gradient.unsqueeze(0)?;
        while let Some(checkpoint) = layers.pop() {
            stop.check()?;
            let index = layers.len();
            let LayerGraph { input, output } = match checkpoint {
                Checkpoint::Graph(graph) => graph,
                Checkpoint::Input(input) => self.run_layer(index, &input, &context, adapter)?,
            };
            // d(sum(output * gradient))/dx is the product of the Jacobian with the gradient.
            let mut found = (output * &gradient)?.sum_all()?.backward()?;
            gradients.take_layer(adapter.adapter, index, &mut found)?;
            if index > 0 {
                gradient = found.remove(input.as_tensor()).ok_or_else(|| {
                    candle_core::Error::Msg(format!("layer {index} passes no gradient to its input"))
                })?;
            }
        }
        Ok(())
    }

    fn infer_layer(
        &self,
        index: usize,
        input: &Tensor,
        context: &Context,
        adapter: Option<Adapted<'_>>,
    ) -> Result<Tensor> {
        let layer = &self.layers[index];
        Ok(layer.forward(input, context, &mut Past::Nothing, adapter, Mode::Inference)?)
    }

    fn run_layer(
        &self,
        index: usize,
        input: &Tensor,
        context: &Context,
        adapter: Adapted<'_>,
    ) -> Result<LayerGraph> {
        let (layer, adapter) = (&self.layers[index], Some(adapter));
        let input = Var::from_tensor(input)?;
        let output =
            layer.forward(input.as_tensor(), context, &mut Past::Nothing, adapter, Mode::Training)?;
        Ok(LayerGraph { input, output })
    }
}

/// What is left for graphs, and how large the last one was.
struct Room {
    bytes: u64,
    last: u64,
}

impl Room {
    /// Beside a kept graph there must be room for one that the backward pass makes, and for the gradients in it.
    const fn fits(&self, graph: u64) -> bool {
        self.bytes >= graph.saturating_mul(3)
    }

    /// Layers are alike: one whose graph fits shows whether that of the next will.
    const fn may_take_another(&self) -> bool {
        self.bytes > 0 && self.fits(self.last)
    }

    /// Takes a graph's bytes if they fit.
    const fn take(&mut self, graph: u64) -> bool {
        self.last = graph;
        let fits = self.fits(graph);
        if fits {
            self.bytes -= graph;
        }
        fits
    }
}

/// The bytes of the tensors that lead from a layer's input to `output`: views of one buffer count once.
fn graph_bytes(output: &Tensor) -> u64 {
    let mut buffers = HashMap::new();
    for node in output.sorted_nodes() {
        let (storage, layout) = node.storage_and_layout();
        if layout.is_contiguous() {
            let bytes = (layout.shape().elem_count() * node.dtype().size_in_bytes()) as u64;
            let largest = buffers.entry(std::ptr::from_ref(&*storage).addr()).or_insert(0);
            *largest = bytes.max(*largest);
        }
    }
    buffers.values().sum()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::*;

    #[test]
    fn a_buffer_counts_once_however_it_is_looked_at() -> candle_core::Result<()> {
        let input = Var::from_tensor(&Tensor::zeros((4, 6), candle_core::DType::F32, &Device::Cpu)?)?;
        let twice = (input.as_tensor() * 2.0)?;
        let views = twice.reshape((2, 12))?.t()?.t()?.narrow(0, 0, 1)?;
        let sum = (views.sum_all()? + twice.sum_all()?)?;
        // The input, its double and the three scalars.
        assert_eq!(graph_bytes(&sum), 4 * (24 + 24 + 3));
        Ok(())
    }

    #[test]
    fn a_graph_that_does_not_fit_is_not_tried_again() {
        let mut room = Room { bytes: 100, last: 0 };
        assert!(room.may_take_another() && room.take(20));
        assert!(room.may_take_another() && room.take(20));
        assert!(room.may_take_another() && !room.take(21));
        assert!(!room.may_take_another());
        assert!(!Room { bytes: 0, last: 0 }.may_take_another());
        assert!(Room { bytes: u64::MAX, last: 1 << 40 }.may_take_another());
    }
}
