//! Passes over whole sequences: forward only, and forward followed by backward.

use std::collections::HashMap;

use candle_core::{Tensor, Var};

use super::attention::Past;
use super::language_model::LanguageModel;
use super::layout::Layout;
use super::rope::PassContext;
use crate::cancellation::CancellationToken;
use crate::error::Result;
use crate::model::gradients::Gradients;
use crate::model::lora::ActiveAdapter;
use crate::model::mode::Mode;

/// The limits of a training pass. No result depends on them.
#[derive(Debug, Clone, Copy)]
pub struct PassLimits<'a> {
    /// Ends a pass between two layers.
    pub cancellation: &'a CancellationToken,
    /// Bytes that the graphs of layers may occupy between the forward and the backward pass. The graphs of as many
    /// layers as fit are kept. Of the others the input is kept, and the backward pass runs them again.
    pub graph_bytes: u64,
}

/// The activations of every layer that a forward pass keeps for [`LanguageModel::backward`].
pub struct Checkpoints {
    /// First layer first.
    layers: Vec<Checkpoint>,
    context: PassContext,
}

enum Checkpoint {
    Input(Tensor),
    Graph(LayerGraph),
}

/// The graph of one layer, from its input to its output.
struct LayerGraph {
    input: Var,
    output: Tensor,
}

impl LanguageModel {
    /// Embeddings `[tokens, hidden]` in the order of `layout` to the last hidden states before the final norm.
    ///
    /// # Errors
    /// [`crate::error::Error::Interrupted`] between two layers.
    pub fn forward(
        &self,
        embeddings: &Tensor,
        layout: &Layout,
        adapter: Option<ActiveAdapter<'_>>,
        cancellation: &CancellationToken,
    ) -> Result<Tensor> {
        let context = self.rope.context(layout, embeddings.device())?;
        let mut state = embeddings.unsqueeze(0)?;
        for index in 0..self.layers.len() {
            cancellation.check()?;
            state = self.infer_layer(index, &state, &context, adapter)?;
        }
        Ok(state.squeeze(0)?)
    }

    /// As [`LanguageModel::forward`], and keeps the activations that [`LanguageModel::backward`] needs.
    ///
    /// # Errors
    /// As [`LanguageModel::forward`].
    pub fn forward_checkpointed(
        &self,
        embeddings: &Tensor,
        layout: &Layout,
        adapter: ActiveAdapter<'_>,
        limits: PassLimits<'_>,
    ) -> Result<(Tensor, Checkpoints)> {
        let context = self.rope.context(layout, embeddings.device())?;
        let mut state = embeddings.unsqueeze(0)?.detach();
        let mut layers = Vec::with_capacity(self.layers.len());
        let mut budget = GraphBudget { bytes: limits.graph_bytes, last: 0 };
        for index in 0..self.layers.len() {
            limits.cancellation.check()?;
            if budget.has_room() {
                let graph = self.run_layer(index, &state, &context, adapter)?;
                let output = graph.output.detach();
                let fits = budget.try_take(graph.bytes());
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

    /// Backpropagates `gradient` `[tokens, hidden]`, that of the last hidden states, and adds the gradients of the
    /// adapter's tensors to `gradients`. The activations of each layer are freed after their use.
    ///
    /// # Errors
    /// As [`LanguageModel::forward`]; `gradients` then holds those of some layers only.
    pub fn backward(
        &self,
        checkpoints: Checkpoints,
        gradient: &Tensor,
        adapter: ActiveAdapter<'_>,
        gradients: &mut Gradients,
        cancellation: &CancellationToken,
    ) -> Result<()> {
        let Checkpoints { mut layers, context } = checkpoints;
        let mut gradient = gradient.unsqueeze(0)?;
        while let Some(checkpoint) = layers.pop() {
            cancellation.check()?;
            let index = layers.len();
            let LayerGraph { input, output } = match checkpoint {
                Checkpoint::Graph(graph) => graph,
                Checkpoint::Input(input) => self.run_layer(index, &input, &context, adapter)?,
            };
            // d(sum(output * gradient))/dx is the vector-Jacobian product.
            let mut found = (output * &gradient)?.sum_all()?.backward()?;
            gradients.add_layer(adapter.adapter, index, &mut found)?;
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
        context: &PassContext,
        adapter: Option<ActiveAdapter<'_>>,
    ) -> Result<Tensor> {
        let layer = &self.layers[index];
        Ok(layer.forward(input, context, &mut Past::Nothing, adapter, Mode::Inference)?)
    }

    fn run_layer(
        &self,
        index: usize,
        input: &Tensor,
        context: &PassContext,
        adapter: ActiveAdapter<'_>,
    ) -> Result<LayerGraph> {
        let (layer, adapter) = (&self.layers[index], Some(adapter));
        let input = Var::from_tensor(input)?;
        let output =
            layer.forward(input.as_tensor(), context, &mut Past::Nothing, adapter, Mode::Training)?;
        Ok(LayerGraph { input, output })
    }
}

/// The bytes left for graphs.
struct GraphBudget {
    bytes: u64,
    /// The bytes of the previous graph.
    last: u64,
}

impl GraphBudget {
    /// Besides the kept graph, the backward pass needs room for one that it builds and for the gradients in it.
    const fn fits(&self, graph: u64) -> bool {
        self.bytes >= graph.saturating_mul(3)
    }

    /// Whether the next graph will fit, judging by the previous one: layers have the same size.
    const fn has_room(&self) -> bool {
        self.bytes > 0 && self.fits(self.last)
    }

    /// Takes the bytes of a graph if they fit.
    const fn try_take(&mut self, graph: u64) -> bool {
        self.last = graph;
        let fits = self.fits(graph);
        if fits {
            self.bytes -= graph;
        }
        fits
    }
}

impl LayerGraph {
    /// The bytes of the layer's input and of the tensors up to its output. Views of one buffer count once; weights that are
    /// trained do not count.
    fn bytes(&self) -> u64 {
        let mut buffers = HashMap::new();
        let nodes = self.output.sorted_nodes();
        let own = nodes.into_iter().filter(|node| !node.is_variable()).chain([self.input.as_tensor()]);
        for node in own {
            let (storage, layout) = node.storage_and_layout();
            if layout.is_contiguous() {
                let bytes = (layout.shape().elem_count() * node.dtype().size_in_bytes()) as u64;
                let largest = buffers.entry(std::ptr::from_ref(&*storage).addr()).or_insert(0);
                *largest = bytes.max(*largest);
            }
        }
        buffers.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::*;

    #[test]
    fn views_of_a_buffer_count_once() -> candle_core::Result<()> {
        let input = Var::from_tensor(&Tensor::zeros((4, 6), candle_core::DType::F32, &Device::Cpu)?)?;
        let twice = (input.as_tensor() * 2.0)?;
        let views = twice.reshape((2, 12))?.t()?.t()?.narrow(0, 0, 1)?;
        let sum = (views.sum_all()? + twice.sum_all()?)?;
        let trained = Var::from_tensor(&Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?)?;
        let output = (sum * trained.as_tensor())?;
        // The input, its double and four scalars.
        assert_eq!(LayerGraph { input, output }.bytes(), 4 * (24 + 24 + 4));
        Ok(())
    }

    #[test]
    fn after_a_graph_that_does_not_fit_no_other_is_built() {
        let mut budget = GraphBudget { bytes: 100, last: 0 };
        assert!(budget.has_room() && budget.try_take(20));
        assert!(budget.has_room() && budget.try_take(20));
        assert!(budget.has_room() && !budget.try_take(21));
        assert!(!budget.has_room());
        assert!(!GraphBudget { bytes: 0, last: 0 }.has_room());
        assert!(GraphBudget { bytes: u64::MAX, last: 1 << 40 }.has_room());
    }
}
