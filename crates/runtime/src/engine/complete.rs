//! Completing prompts that are all known beforehand.

use std::ops::ControlFlow;

use super::{Engine, Event, Request, RequestId, Setup, State};
use crate::completion::{self, Completion, Report};
use crate::error::{Error, Result};
use crate::model::Model;

/// Completes requests: all of them are submitted, and the engine steps until it is idle.
///
/// `on_event` hears of each token as it comes and of each completion as it ends, in the order of
/// their ends; `Break` stops everything, and it is not called again. When the
/// [flag](crate::Settings::cancel) of the setup is raised, what there is comes as completions
/// that were [cancelled](crate::Finish::Cancelled).
///
/// # Errors
/// A request that can never be served, told before anything is computed; see [`Engine::submit`].
/// The first request that fails later.
pub fn complete(
    model: &Model,
    requests: Vec<Request>,
    setup: Setup,
    on_event: &mut dyn FnMut(completion::Event<'_>) -> ControlFlow<()>,
) -> Result<Report> {
    // All are here: nobody comes later who would begin with what has ended.
    let setup = Setup {
        forget_ended: true,
        ..setup
    };
    let mut engine = Engine::new(model, setup)?;
    for request in requests {
        engine.submit(request)?;
    }
    let mut events = Vec::new();
    loop {
        let state = engine.step(&mut events);
        for (id, event) in events.drain(..) {
            if tell(id, event, on_event)?.is_break() {
                return Ok(engine.report().clone());
            }
        }
        match state {
            Ok(State::Busy) => {}
            Ok(State::Idle) => return Ok(engine.report().clone()),
            Err(Error::Cancelled) => {
                for (id, completion) in engine.cancel_all() {
                    if done(id, completion, on_event).is_break() {
                        break;
                    }
                }
                return Ok(engine.report().clone());
            }
            Err(error) => return Err(error),
        }
    }
}

fn tell(
    id: RequestId,
    event: Event,
    on_event: &mut dyn FnMut(completion::Event<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    Ok(match event {
        Event::Prompt(_) => ControlFlow::Continue(()),
        Event::Token { step, text } => on_event(completion::Event::Token {
            index: id.index(),
            step: &step,
            text: &text,
        }),
        Event::Done(completion) => done(id, completion, on_event),
        Event::Failed(error) => return Err(error),
    })
}

fn done(
    id: RequestId,
    completion: Completion,
    on_event: &mut dyn FnMut(completion::Event<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    on_event(completion::Event::Done {
        index: id.index(),
        completion,
    })
}
