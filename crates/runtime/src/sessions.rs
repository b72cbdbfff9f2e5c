//! The sessions that texts of different lengths need: one for each set of RoPE factors.

use super::error::Result;
use super::model::Model;
use super::rope::PerRegime;
use super::session::Session;
use super::settings::Settings;

/// Sessions of a model for texts of different lengths, made when they are needed: one for texts
/// that are computed with the short RoPE factors, one for those with the long ones. This way the
/// result for a text does not depend on longer texts beside it.
#[derive(Debug)]
pub struct Sessions {
    model: Model,
    settings: Settings,
    rooms: PerRegime<usize>,
    made: PerRegime<Option<Session>>,
}

impl Sessions {
    /// Sessions with these settings, except for their sizes.
    pub fn new(model: &Model, settings: Settings) -> Self {
        Sessions {
            model: model.clone(),
            settings,
            rooms: PerRegime::default(),
            made: PerRegime::default(),
        }
    }

    /// Announces that a text will need `room` tokens, so that one session is made for all texts.
    pub fn reserve(&mut self, room: usize) {
        let most = self.rooms.get_mut(self.model.rope_factors(room));
        *most = room.max(*most);
    }

    /// The session for a text that needs `room` tokens. If the existing one is too small, it is
    /// replaced, and the sequences that were open in it are lost.
    ///
    /// # Errors
    /// See [`Session::new`].
    pub fn of(&mut self, room: usize) -> Result<&mut Session> {
        self.reserve(room);
        let rope_factors = self.model.rope_factors(room);
        let n_ctx = (self.model).context_for(rope_factors, *self.rooms.get(rope_factors));
        let made = self.made.get_mut(rope_factors);
        let fits = made
            .take()
            .filter(|session| session.n_ctx() >= n_ctx as usize);
        let session = match fits {
            Some(session) => session,
            None => {
                let settings = self.settings.clone();
                Session::new(&self.model, &Settings { n_ctx, ..settings })?
            }
        };
        Ok(made.insert(session))
    }
}
