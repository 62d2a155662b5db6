//! What is written at once does not know of each other: a response has the tokens it has alone, for every number of them,
//! in every order, with its prefix shared or read for itself.

#![expect(clippy::unwrap_used, reason = "a test ends where its fixtures are not what they should be")]

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use stic_contract::recipe::Sampling;
use stic_trainer::algorithm::draw::Draw;
use stic_trainer::error::{Error, Result};
use stic_trainer::generation::{Generated, Generator, Request, Requests, SharedPrefix};
use stic_trainer::io::adapter;
use stic_trainer::io::stop::Stop;
use stic_trainer::model::language::KvCache;
use stic_trainer::model::lora::LoraAdapter;
use stic_trainer::model::{Llava, Mode};

struct Fixture {
    name: &'static str,
    model: Llava,
    adapter: LoraAdapter,
    /// Features of images that the prompts ask about.
    images: Vec<Tensor>,
    prompt: Vec<u32>,
}

impl Fixture {
    fn both() -> [Self; 2] {
        ["llava", "next"].map(|name| {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
            let expected: HashMap<String, Tensor> =
                candle_core::safetensors::load(dir.join("fixture.safetensors"), &Device::Cpu).unwrap();
            let model = Llava::load(&dir, DType::F32, &Device::Cpu).unwrap();
            let adapter =
                adapter::load(&dir.join("adapter0"), &model.config().text, &Device::Cpu).unwrap().adapter;
            let clean = expected["feats"].clone();
            let corrupted = clean.affine(0.6, 0.05).unwrap();
            let other = clean.flip(&[0]).unwrap();
            let prompt: Vec<i64> = expected["prompt"].flatten_all().unwrap().to_vec1().unwrap();
            let prompt = prompt.into_iter().map(|id| id as u32).collect();
            Self { name, model, adapter, images: vec![clean, corrupted, other], prompt }
        })
    }

    /// Six prompts on each image, each with a length and a temperature of its own.
    fn wishes(&self) -> Vec<Wish> {
        let wish = |image: usize, prompt: usize| Wish {
            image,
            prompt: [self.prompt.as_slice(), &[3, 5, 7, 11, 13, 17][..prompt + 1]].concat(),
            sampling: Sampling {
                temperature: if (image + prompt).is_multiple_of(2) { 0.0 } else { 0.7 },
                top_p: 1.0,
                top_k: 0,
                max_new_tokens: [1, 9, 24][(2 * image + prompt) % 3],
            },
        };
        (0..self.images.len()).flat_map(|image| (0..6).map(move |prompt| wish(image, prompt))).collect()
    }

    /// Many tokens end a response, so that responses end by themselves after different lengths.
    fn eos(&self) -> Vec<u32> {
        (0..self.model.config().text.vocab_size as u32).filter(|id| id % 13 == 2).collect()
    }
}

/// One response.
#[derive(Clone)]
struct Wish {
    image: usize,
    prompt: Vec<u32>,
    sampling: Sampling,
}

/// Requests in a given order; neighbours on one image share their prefix.
struct List<'a> {
    fixture: &'a Fixture,
    generator: &'a Generator<'a>,
    wishes: &'a [Wish],
    order: VecDeque<usize>,
    /// Of the image that was read last.
    prefix: Option<(usize, SharedPrefix)>,
    open: BTreeSet<usize>,
    written: BTreeMap<usize, Generated>,
    most_open: usize,
    /// How often a place was filled again beside others that were being written.
    refilled: usize,
    /// Asked to stop when so many responses are written.
    stop: Option<(usize, Stop)>,
}

impl<'a> List<'a> {
    fn new(fixture: &'a Fixture, generator: &'a Generator<'a>, wishes: &'a [Wish], order: &[usize]) -> Self {
        Self {
            fixture,
            generator,
            wishes,
            order: order.iter().copied().collect(),
            prefix: None,
            open: BTreeSet::new(),
            written: BTreeMap::new(),
            most_open: 0,
            refilled: 0,
            stop: None,
        }
    }
}

impl Requests for List<'_> {
    type Ticket = usize;

    fn next(&mut self) -> Result<Option<Request<usize>>> {
        let Some(number) = self.order.pop_front() else { return Ok(None) };
        let Wish { image, prompt, sampling } = self.wishes[number].clone();
        if self.prefix.as_ref().is_none_or(|(read, _)| *read != image) {
            let features = &self.fixture.images[image];
            let prefix = self.generator.read_image(&self.fixture.prompt, Some(features))?;
            self.prefix = prefix.map(|prefix| (image, prefix));
        }
        self.refilled += usize::from(!self.open.is_empty() && !self.written.is_empty());
        self.open.insert(number);
        self.most_open = self.most_open.max(self.open.len());
        let prefix = self.prefix.as_ref().map(|(_, prefix)| prefix.clone());
        let draw = Draw::new(7, &number.to_string(), "test");
        Ok(Some(Request { ticket: number, prompt, prefix, sampling, draw }))
    }

    fn answered(&mut self, number: usize, response: Generated) -> Result<()> {
        assert!(self.open.remove(&number), "{number} was not asked for");
        self.written.insert(number, response);
        if let Some((after, stop)) = &self.stop
            && self.written.len() == *after
        {
            stop.ask();
        }
        Ok(())
    }
}

/// Each written in a batch of its own.
fn alone(fixture: &Fixture, generator: &Generator<'_>, wishes: &[Wish]) -> BTreeMap<usize, Generated> {
    let one = |number: usize| {
        let mut list = List::new(fixture, generator, wishes, &[number]);
        generator.write(1, &mut list).unwrap();
        (number, list.written[&number].clone())
    };
    (0..wishes.len()).map(one).collect()
}

#[test]
fn a_response_is_the_same_whatever_is_written_beside_it() {
    for fixture in Fixture::both() {
        let (wishes, eos) = (fixture.wishes(), fixture.eos());
        for adapter in [None, Some(&fixture.adapter)] {
            let generator = Generator::new(&fixture.model, adapter, &eos, Stop::default());
            let expected = alone(&fixture, &generator, &wishes);
            let lengths: BTreeSet<usize> = expected.values().map(|response| response.tokens.len()).collect();
            let finished = expected.values().filter(|response| response.finished).count();
            assert!(lengths.len() >= 4, "{}: {lengths:?} proves little", fixture.name);
            assert!(
                (2..wishes.len() - 1).contains(&finished),
                "{}: {finished} end by themselves",
                fixture.name
            );

            let forward: Vec<usize> = (0..wishes.len()).collect();
            let backward: Vec<usize> = forward.iter().rev().copied().collect();
            // Images in turn: no neighbours share a prefix.
            let scattered: Vec<usize> = forward.iter().map(|i| i % 3 * 6 + i / 3).collect();
            for (order, at_once) in
                [(&forward, 1), (&forward, 3), (&forward, 8), (&backward, 3), (&scattered, 8)]
            {
                let mut list = List::new(&fixture, &generator, &wishes, order);
                generator.write(at_once, &mut list).unwrap();
                let what = format!("{}, {at_once} at once, {order:?}", fixture.name);
                assert_eq!(list.written, expected, "{what}");
                assert!(list.open.is_empty() && list.most_open == at_once, "{what}: {}", list.most_open);
                assert_eq!(list.refilled > 0, at_once > 1, "{what}");
            }
        }
    }
}

#[test]
fn a_row_of_a_batch_has_the_bits_it_has_alone() {
    for fixture in Fixture::both() {
        let language = &fixture.model.language;
        for adapter in [None, Some(&fixture.adapter)] {
            let adapted = || adapter.map(Into::into);
            let prefix = {
                let embedded = fixture.model.embed(&fixture.prompt, Some(&fixture.images[0])).unwrap();
                let mut cache = language.new_cache(fixture.prompt.len());
                language.forward_cached(&embedded, &mut cache, adapted(), &Stop::default()).unwrap();
                Arc::new(cache)
            };
            // Sequences of unlike lengths, `at_once` of them a step: hidden states and logits, to the bit.
            let written = |at_once: usize| -> Vec<Vec<u32>> {
                let sequences: Vec<u32> = (0..8).collect();
                sequences
                    .chunks(at_once)
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
                                        &Stop::default(),
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
            let expected = written(1);
            for at_once in [2, 3, 8] {
                assert!(written(at_once) == expected, "{}: {at_once} at once", fixture.name);
            }
        }
    }
}

#[test]
fn a_stop_between_two_tokens_keeps_what_is_written() {
    let [fixture, _] = Fixture::both();
    let (wishes, eos) = (fixture.wishes(), fixture.eos());
    let order: Vec<usize> = (0..wishes.len()).collect();
    let expected = alone(&fixture, &Generator::new(&fixture.model, None, &eos, Stop::default()), &wishes);
    for after in [1, 4] {
        let stop = Stop::default();
        let generator = Generator::new(&fixture.model, None, &eos, stop.clone());
        let mut list = List::new(&fixture, &generator, &wishes, &order);
        list.stop = Some((after, stop));
        assert!(matches!(generator.write(3, &mut list), Err(Error::Interrupted)));
        let first = list.written;
        assert!((after..wishes.len()).contains(&first.len()), "{} after {after}", first.len());

        let rest: Vec<usize> = order.iter().filter(|number| !first.contains_key(number)).copied().collect();
        let generator = Generator::new(&fixture.model, None, &eos, Stop::default());
        let mut list = List::new(&fixture, &generator, &wishes, &rest);
        generator.write(3, &mut list).unwrap();
        assert_eq!(first.into_iter().chain(list.written).collect::<BTreeMap<_, _>>(), expected);
    }
}

#[test]
fn a_response_ends_where_the_positions_do() {
    for fixture in Fixture::both() {
        let generator = Generator::new(&fixture.model, None, &[], Stop::default());
        let limit = fixture.model.config().text.max_position_embeddings;
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_new_tokens: u32::MAX };
        let of_length = |tokens: usize| {
            let mut prompt = fixture.prompt.clone();
            prompt.resize(tokens, 3);
            Wish { image: 0, prompt, sampling }
        };
        let wishes = [of_length(limit - 3), of_length(limit - 1)];
        let mut list = List::new(&fixture, &generator, &wishes, &[0, 1]);
        generator.write(2, &mut list).unwrap();
        let lengths: Vec<usize> = list.written.values().map(|response| response.tokens.len()).collect();
        assert_eq!(lengths, [3, 1], "{}", fixture.name);
        assert!(list.written.values().all(|response| !response.finished));

        let wishes = [of_length(limit)];
        let mut list = List::new(&fixture, &generator, &wishes, &[0]);
        let error = generator.write(1, &mut list).unwrap_err();
        assert!(matches!(&error, Error::Data(what) if what.contains("leaves no room")), "{error}");
    }
}
