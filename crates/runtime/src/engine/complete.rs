//! Completes prompts that are all known beforehand.

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
    // No later request could reuse a sequence that has ended.
    let setup = Setup {
        discard_ended: true,
        ..setup
    };
    Engine::new(model, setup)?.complete(requests, on_event)
}

impl Engine {
    /// Completes requests: submits all of them, and steps until the engine is idle. Returns a
    /// report of the work. Requests that were submitted earlier are completed, too, without events.
    ///
    /// `on_event` is called for each token when it is chosen and for each completion when it ends,
    /// with the index in `requests`; a request that fails does not stop others. If it returns
    /// `Break`, everything stops, and it is not called again. When the
    /// [flag](crate::Settings::cancel) of the setup is set, the remaining requests end as
    /// [cancelled](crate::Finish::Cancelled) completions.
    ///
    /// # Errors
    /// Before anything is computed, the error of a request that can never be served, see
    /// [`Engine::submit`]; later, errors that concern all requests, see [`Engine::step`]. In both
    /// cases nothing of the requests remains in the engine.
    pub fn complete(
        &mut self,
        requests: Vec<Request>,
        on_event: &mut dyn FnMut(completion::Event) -> ControlFlow<()>,
    ) -> Result<Report> {
        self.report = Report::default();
        let result = self.complete_all(requests, on_event);
        // If everything succeeded, nothing is left to cancel.
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
        // Ids are consecutive in the order of submission.
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

/// Converts an event of the request at `index`; `None` for events that are not reported.
fn named(index: usize, event: Event) -> Option<completion::Event> {
    Some(match event {
        Event::Prompt(_) => return None,
        Event::Token { step, text } => completion::Event::Token { index, step, text },
        Event::Done(completion) => completion::Event::Done { index, completion },
        Event::Failed(error) => completion::Event::Failed { index, error },
    })
}
