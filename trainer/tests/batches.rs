//! Continuous batching changes nothing: a response has the tokens it has alone, for every batch size, in every order, and
//! with or without a shared prefix.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use stic_contract::recipe::Sampling;
use stic_trainer::algorithm::draw::Draw;
use stic_trainer::cancellation::CancellationToken;
use stic_trainer::checkpoint::adapter;
use stic_trainer::error::{Error, Result};
use stic_trainer::generation::{Generated, Generator, Request, RequestSource, SharedPrefix};
use stic_trainer::model::language::KvCache;
use stic_trainer::model::lora::LoraAdapter;
use stic_trainer::model::{Mode, VisionLanguageModel};

struct Fixture {
    name: &'static str,
    model: VisionLanguageModel,
    adapter: LoraAdapter,
    /// Features of the images that the prompts ask about.
    images: Vec<Tensor>,
    prompt: Vec<u32>,
}

impl Fixture {
    fn both() -> [Self; 2] {
        ["llava", "next"].map(|name| {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
            let expected: HashMap<String, Tensor> =
                candle_core::safetensors::load(dir.join("fixture.safetensors"), &Device::Cpu).unwrap();
            let model = VisionLanguageModel::load(&dir, DType::F32, &Device::Cpu).unwrap();
            let adapter = adapter::load(
                &dir.join("adapter0"),
                &model.config().text,
                &Device::Cpu,
                adapter::TrainedProjector::Refuse,
            )
            .unwrap()
            .adapter;
            let clean = expected["feats"].clone();
            let corrupted = clean.affine(0.6, 0.05).unwrap();
            let other = clean.flip(&[0]).unwrap();
            let prompt: Vec<i64> = expected["prompt"].flatten_all().unwrap().to_vec1().unwrap();
            let prompt = prompt.into_iter().map(|id| id as u32).collect();
            Self { name, model, adapter, images: vec![clean, corrupted, other], prompt }
        })
    }

    /// Six prompts on each image, each with a length and a temperature of its own.
    fn prompts(&self) -> Vec<Prompt> {
        let prompt = |image: usize, prompt: usize| Prompt {
            image,
            prompt: [self.prompt.as_slice(), &[3, 5, 7, 11, 13, 17][..prompt + 1]].concat(),
            sampling: Sampling {
                temperature: if (image + prompt).is_multiple_of(2) { 0.0 } else { 0.7 },
                top_p: 1.0,
                top_k: 0,
                max_new_tokens: [1, 9, 24][(2 * image + prompt) % 3],
            },
        };
        (0..self.images.len()).flat_map(|image| (0..6).map(move |number| prompt(image, number))).collect()
    }

    /// So many EOS tokens that responses end by themselves after different lengths.
    fn eos(&self) -> Vec<u32> {
        (0..self.model.config().text.vocab_size as u32).filter(|id| id % 13 == 2).collect()
    }
}

#[derive(Clone)]
struct Prompt {
    image: usize,
    prompt: Vec<u32>,
    sampling: Sampling,
}

/// Requests in a given order; neighbors about one image share their prefix.
struct Requests<'a> {
    fixture: &'a Fixture,
    generator: &'a Generator<'a>,
    prompts: &'a [Prompt],
    order: VecDeque<usize>,
    /// Of the image that was prefilled last.
    prefix: Option<(usize, SharedPrefix)>,
    open: BTreeSet<usize>,
    responses: BTreeMap<usize, Generated>,
    most_open: usize,
    /// How often a slot was refilled while others were being decoded.
    refilled: usize,
    /// Cancelled after so many responses.
    cancel_after: Option<(usize, CancellationToken)>,
    /// A response that is broken off at so many tokens.
    break_off: Option<(usize, usize)>,
    /// Of each response, the tokens that were seen one after the other.
    seen: BTreeMap<usize, Vec<u32>>,
}

impl<'a> Requests<'a> {
    fn new(
        fixture: &'a Fixture,
        generator: &'a Generator<'a>,
        prompts: &'a [Prompt],
        order: &[usize],
    ) -> Self {
        Self {
            fixture,
            generator,
            prompts,
            order: order.iter().copied().collect(),
            prefix: None,
            open: BTreeSet::new(),
            responses: BTreeMap::new(),
            most_open: 0,
            refilled: 0,
            cancel_after: None,
            break_off: None,
            seen: BTreeMap::new(),
        }
    }
}

impl RequestSource for Requests<'_> {
    type Tag = usize;

    fn next(&mut self) -> Result<Option<Request<usize>>> {
        let Some(number) = self.order.pop_front() else { return Ok(None) };
        let Prompt { image, prompt, sampling } = self.prompts[number].clone();
        if self.prefix.as_ref().is_none_or(|(prefilled, _)| *prefilled != image) {
            let features = &self.fixture.images[image];
            let prefix = self.generator.prefill_image(&self.fixture.prompt, Some(features))?;
            self.prefix = prefix.map(|prefix| (image, prefix));
        }
        self.refilled += usize::from(!self.open.is_empty() && !self.responses.is_empty());
        self.open.insert(number);
        self.most_open = self.most_open.max(self.open.len());
        let prefix = self.prefix.as_ref().map(|(_, prefix)| prefix.clone());
        let draw = Draw::new(7, &number.to_string(), "test");
        Ok(Some(Request { tag: number, prompt, prefix, sampling, draw }))
    }

    fn on_token(&mut self, number: &usize, tokens: &[u32]) -> ControlFlow<()> {
        let seen = self.seen.entry(*number).or_default();
        seen.extend(tokens.last());
        assert_eq!(seen, tokens, "one token at a time");
        if self.break_off == Some((*number, tokens.len())) {
            self.open.remove(number);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn complete(&mut self, number: usize, response: Generated) -> Result<()> {
        assert!(self.open.remove(&number), "{number} was not requested");
        self.responses.insert(number, response);
        if let Some((after, cancellation)) = &self.cancel_after
            && self.responses.len() == *after
        {
            cancellation.cancel();
        }
        Ok(())
    }
}

/// Each response generated in a batch of its own.
fn alone(fixture: &Fixture, generator: &Generator<'_>, prompts: &[Prompt]) -> BTreeMap<usize, Generated> {
    let one = |number: usize| {
        let mut requests = Requests::new(fixture, generator, prompts, &[number]);
        generator.generate(1, &mut requests).unwrap();
        (number, requests.responses[&number].clone())
    };
    (0..prompts.len()).map(one).collect()
}

#[test]
fn a_response_that_is_broken_off_gives_up_its_slot_and_changes_no_other() {
    for fixture in Fixture::both() {
        let (prompts, eos) = (fixture.prompts(), fixture.eos());
        let generator = Generator::new(&fixture.model, None, &eos, CancellationToken::default());
        let mut expected = alone(&fixture, &generator, &prompts);
        let longest = *expected.iter().max_by_key(|(_, response)| response.tokens.len()).unwrap().0;
        let order: Vec<usize> = (0..prompts.len()).collect();
        for tokens in [1, 2] {
            let mut requests = Requests::new(&fixture, &generator, &prompts, &order);
            requests.break_off = Some((longest, tokens));
            generator.generate(3, &mut requests).unwrap();
            expected.remove(&longest);
            assert_eq!(requests.responses, expected, "{}: broken off at {tokens} tokens", fixture.name);
            assert_eq!(requests.seen[&longest].len(), tokens);
            assert!(requests.open.is_empty(), "{:?}", requests.open);
        }
    }
}

#[test]
fn a_response_does_not_depend_on_the_rest_of_the_batch() {
    for fixture in Fixture::both() {
        let (prompts, eos) = (fixture.prompts(), fixture.eos());
        for adapter in [None, Some(&fixture.adapter)] {
            let generator = Generator::new(&fixture.model, adapter, &eos, CancellationToken::default());
            let expected = alone(&fixture, &generator, &prompts);
            let lengths: BTreeSet<usize> = expected.values().map(|response| response.tokens.len()).collect();
            let finished = expected.values().filter(|response| response.finished).count();
            assert!(lengths.len() >= 4, "{}: the lengths {lengths:?} hardly differ", fixture.name);
            assert!(
                (2..prompts.len() - 1).contains(&finished),
                "{}: {finished} end with an EOS",
                fixture.name
            );

            let forward: Vec<usize> = (0..prompts.len()).collect();
            let backward: Vec<usize> = forward.iter().rev().copied().collect();
            // Alternating images: no neighbors share a prefix.
            let scattered: Vec<usize> = forward.iter().map(|i| i % 3 * 6 + i / 3).collect();
            for (order, batch_size) in
                [(&forward, 1), (&forward, 3), (&forward, 8), (&backward, 3), (&scattered, 8)]
            {
                let mut requests = Requests::new(&fixture, &generator, &prompts, order);
                generator.generate(batch_size, &mut requests).unwrap();
                let what = format!("{}, batch size {batch_size}, {order:?}", fixture.name);
                assert_eq!(requests.responses, expected, "{what}");
                assert!(
                    requests.open.is_empty() && requests.most_open == batch_size,
                    "{what}: {}",
                    requests.most_open
                );
                assert_eq!(requests.refilled > 0, batch_size > 1, "{what}");
            }
        }
    }
}

#[test]
fn a_row_of_a_batch_has_the_same_bits_as_alone() {
    for fixture in Fixture::both() {
        let language = &fixture.model.language;
        for adapter in [None, Some(&fixture.adapter)] {
            let adapted = || adapter.map(Into::into);
            let prefix = {
                let embedded = fixture.model.embed(&fixture.prompt, Some(&fixture.images[0])).unwrap();
                let mut cache = language.new_cache(fixture.prompt.len());
                language
                    .forward_cached(&embedded, &mut cache, adapted(), &CancellationToken::default())
                    .unwrap();
                Arc::new(cache)
            };
            // Hidden states and logits of sequences of different lengths, `batch_size` of them per step.
            let decoded = |batch_size: usize| -> Vec<Vec<u32>> {
                let sequences: Vec<u32> = (0..8).collect();
                sequences
                    .chunks(batch_size)
                    .flat_map(|some| {
                        let mut caches: Vec<KvCache> = some
                            .iter()
                            .map(|number| {
                                let mut cache = KvCache::follow(&prefix, prefix.len() + 20);
                                let rest: Vec<u32> = (3..5 + number).collect();
                                language
                                    .forward_cached(
                                        &language.embed(&rest).unwrap(),
                                        &mut cache,
                                        adapted(),
                                        &CancellationToken::default(),
                                    )
                                    .unwrap();
                                cache
                            })
                            .collect();
                        let mut bits = vec![Vec::new(); some.len()];
                        for step in 0..3 {
                            let last: Vec<u32> = some.iter().map(|number| 20 + 7 * number + step).collect();
                            let mut rows: Vec<&mut KvCache> = caches.iter_mut().collect();
                            let hidden = language
                                .decode(&language.embed(&last).unwrap(), &mut rows, adapted())
                                .unwrap();
                            let logits = language.logits(&hidden, Mode::Decoding).unwrap();
                            let both = Tensor::cat(&[hidden, logits], 1).unwrap().to_vec2::<f32>().unwrap();
                            for (bits, row) in bits.iter_mut().zip(both) {
                                bits.extend(row.into_iter().map(f32::to_bits));
                            }
                        }
                        bits
                    })
                    .collect()
            };
            let expected = decoded(1);
            for batch_size in [2, 3, 8] {
                assert!(decoded(batch_size) == expected, "{}: batch size {batch_size}", fixture.name);
            }
        }
    }
}

#[test]
fn cancelling_between_two_tokens_keeps_finished_responses() {
    let [fixture, _] = Fixture::both();
    let (prompts, eos) = (fixture.prompts(), fixture.eos());
    let order: Vec<usize> = (0..prompts.len()).collect();
    let expected =
        alone(&fixture, &Generator::new(&fixture.model, None, &eos, CancellationToken::default()), &prompts);
    for after in [1, 4] {
        let cancellation = CancellationToken::default();
        let generator = Generator::new(&fixture.model, None, &eos, cancellation.clone());
        let mut requests = Requests::new(&fixture, &generator, &prompts, &order);
        requests.cancel_after = Some((after, cancellation));
        assert!(matches!(generator.generate(3, &mut requests), Err(Error::Interrupted)));
        let first = requests.responses;
        assert!((after..prompts.len()).contains(&first.len()), "{} after {after}", first.len());

        let rest: Vec<usize> = order.iter().filter(|number| !first.contains_key(number)).copied().collect();
        let generator = Generator::new(&fixture.model, None, &eos, CancellationToken::default());
        let mut requests = Requests::new(&fixture, &generator, &prompts, &rest);
        generator.generate(3, &mut requests).unwrap();
        assert_eq!(first.into_iter().chain(requests.responses).collect::<BTreeMap<_, _>>(), expected);
    }
}

#[test]
fn a_response_ends_at_the_last_position() {
    for fixture in Fixture::both() {
        let generator = Generator::new(&fixture.model, None, &[], CancellationToken::default());
        let limit = fixture.model.config().text.max_position_embeddings;
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_new_tokens: u32::MAX };
        let of_length = |tokens: usize| {
            let mut prompt = fixture.prompt.clone();
            prompt.resize(tokens, 3);
            Prompt { image: 0, prompt, sampling }
        };
        let prompts = [of_length(limit - 3), of_length(limit - 1)];
        let mut requests = Requests::new(&fixture, &generator, &prompts, &[0, 1]);
        generator.generate(2, &mut requests).unwrap();
        let lengths: Vec<usize> = requests.responses.values().map(|response| response.tokens.len()).collect();
        assert_eq!(lengths, [3, 1], "{}", fixture.name);
        assert!(requests.responses.values().all(|response| !response.finished));

        let prompts = [of_length(limit)];
        let mut requests = Requests::new(&fixture, &generator, &prompts, &[0]);
        let error = generator.generate(1, &mut requests).unwrap_err();
        assert!(matches!(&error, Error::Data(what) if what.contains("leaves no room")), "{error}");
    }
}
