//! The sessions that texts of several lengths need: one for each set of RoPE factors.

use super::error::Result;
use super::model::Model;
use super::rope::PerRegime;
use super::session::Session;
use super::settings::Settings;

/// Sessions of a model for texts of several lengths, made when they are needed: one for those
/// that are computed with its short RoPE factors, one for those with the long ones. So a text
/// gets the same answer alone and beside a longer one.
#[derive(Debug)]
pub struct Sessions {
    model: Model,
    settings: Settings,
    rooms: PerRegime<usize>,
    made: PerRegime<Option<Session>>,
}

impl Sessions {
    /// Sessions that compute as `settings` say, sizes aside.
    pub fn new(model: &Model, settings: Settings) -> Self {
        Sessions {
            model: model.clone(),
            settings,
            rooms: PerRegime::default(),
            made: PerRegime::default(),
        }
    }

    /// Says beforehand that a text will need `room` tokens, so that one session serves all.
    pub fn reserve(&mut self, room: usize) {
        let most = self.rooms.get_mut(self.model.regime(room));
        *most = room.max(*most);
    }

    /// The session for a text that needs `room` tokens. One that is too small is made anew, and
    /// what was open in it is gone.
    ///
    /// # Errors
    /// See [`Session::new`].
    pub fn of(&mut self, room: usize) -> Result<&mut Session> {
        self.reserve(room);
        let regime = self.model.regime(room);
        let n_ctx = (self.model).context_for(regime, *self.rooms.get(regime));
        let made = self.made.get_mut(regime);
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
