//! Makes a world that fails smaller while it goes on failing.

use super::outcome::{Broken, Outcome};
use super::recipe::{Fault, Recipe};
use super::site::Site;

/// The smallest world found in which the same property fails; `live` is how it was found.
#[must_use]
pub fn shrink(broken: Broken, live: impl Fn(&Recipe) -> Result<Outcome, Broken>) -> Broken {
    let mut least = broken;
    loop {
        let smaller = smaller(&least.recipe).into_iter().find_map(|recipe| {
            let failed = live(&recipe).err()?;
            (number(&failed.what) == number(&least.what)).then_some(failed)
        });
        match smaller {
            Some(smaller) => least = smaller,
            None => return least,
        }
    }
}

/// Which property it was.
fn number(what: &str) -> Option<&str> {
    what.split(':').next()
}

/// Worlds with one thing less.
fn smaller(recipe: &Recipe) -> Vec<Recipe> {
    let site = Site::build(recipe);
    let mut worlds = Vec::new();
    let carrying = (0..site.flows.len()).filter(|flow| recipe.has_flow(*flow)).count();
    for flow in (0..site.flows.len()).filter(|flow| recipe.has_flow(*flow) && carrying > 1) {
        worlds.push(Recipe { flows: recipe.flows & !(1 << flow), ..*recipe });
    }
    for node in (0..site.nodes).filter(|node| recipe.has_node(*node)) {
        worlds.push(Recipe { nodes: recipe.nodes & !(1 << node), ..*recipe });
    }
    for seconds in [recipe.seconds / 2, recipe.seconds * 3 / 4, recipe.seconds * 19 / 20] {
        worlds.push(Recipe { seconds, ..*recipe });
    }
    let faults = recipe.faults();
    for (fault, _) in Fault::ALL.into_iter().filter(|(fault, _)| faults.has(*fault)) {
        worlds.push(Recipe { without: recipe.without.with(fault), ..*recipe });
    }
    worlds.retain(|world| world != recipe);
    worlds
}
