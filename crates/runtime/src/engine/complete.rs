//! Completing prompts that are all known beforehand.

use std::ops::ControlFlow;

use super::{Engine, Event, Request, RequestId, Setup, State};
use crate::completion::{self, Report};
use crate::error::{Error, Result};
use crate::model::Model;

/// Completes requests with an engine of their own; see [`Engine::complete`].
///
/// # Errors
/// See [`Engine::new`] and [`Engine::complete`].
pub fn complete(
    model: &Model,
    requests: Vec<Request>,
    setup: Setup,
    on_event: &mut dyn FnMut(completion::Event) -> ControlFlow<()>,
) -> Result<Report> {
    // All are here: nobody comes later who would begin with what has ended.
    let setup = Setup {
        forget_ended: true,
        ..setup
    };
    Engine::new(model, setup)?.complete(requests, on_event)
}

impl Engine {
    /// Completes requests: all of them are submitted, and the engine steps until it is idle. Gives
    /// what that took. Requests that were submitted before end as well, and nobody hears of it.
    ///
    /// `on_event` hears of each token as it comes and of each completion as it ends, in the order
    /// of their ends, by their places among `requests`; a request that fails does not stop others.
    /// `Break` stops everything, and it is not called again. When the
    /// [flag](crate::Settings::cancel) of the setup is raised, what there is comes as completions
    /// that were [cancelled](crate::Finish::Cancelled).
    ///
    /// # Errors
    /// A request that can never be served, told before anything is computed; see
    /// [`Engine::submit`]. What is wrong with all of it; see [`Engine::step`]. Either way nothing
    /// of the requests is left in the engine.
    pub fn complete(
        &mut self,
        requests: Vec<Request>,
        on_event: &mut dyn FnMut(completion::Event) -> ControlFlow<()>,
    ) -> Result<Report> {
        self.report = Report::default();
        let result = self.complete_all(requests, on_event);
        // Nothing is left where all went well.
        self.cancel_all();
        self.ended.clear();
        result.map(|()| std::mem::take(&mut self.report))
    }

    fn complete_all(
        &mut self,
        requests: Vec<Request>,
        on_event: &mut dyn FnMut(completion::Event) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut first = None;
        for request in requests {
            let id = self.submit(request)?;
            first.get_or_insert(id);
        }
        let Some(first) = first else {
            return Ok(());
        };
        // Names are given in the order of submission.
        let mut tell = |(id, event): (RequestId, Event)| {
            let index = id.index().checked_sub(first.index());
            match index.and_then(|index| named(index, event)) {
                Some(event) => on_event(event),
                None => ControlFlow::Continue(()),
            }
        };
        let mut events = Vec::new();
        loop {
            let state = self.step(&mut events);
            if events.drain(..).try_for_each(&mut tell).is_break() {
                return Ok(());
            }
            match state {
                Ok(State::Busy) => {}
                Ok(State::Idle) => return Ok(()),
                Err(Error::Cancelled) => {
                    let left = self.cancel_all().into_iter();
                    let mut left = left.map(|(id, completion)| (id, Event::Done(completion)));
                    let _ = left.try_for_each(&mut tell);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// An event of the request at `index`, if it is one of those that completing tells.
fn named(index: usize, event: Event) -> Option<completion::Event> {
    Some(match event {
        Event::Prompt(_) => return None,
        Event::Token { step, text } => completion::Event::Token { index, step, text },
        Event::Done(completion) => completion::Event::Done { index, completion },
        Event::Failed(error) => completion::Event::Failed { index, error },
    })
}
