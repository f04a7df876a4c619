//! The two kinds of lab that scenarios run on: how each comes up, and what it tells of a failure.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::{
    Lab, Line, Place, control_plane_binary, demo, eventually, tools_are_installed,
};

use super::runner::{Ground, edge_evidence, keep_evidence};
use super::sample::{SOON, established};

/// What a scenario needs of the large lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A control plane.
    Cluster,
    /// None, but an inventory file.
    Inventory,
}

impl Ground for Lab {
    type Needs = Needs;

    fn possible(needs: Needs) -> Result<()> {
        tools_are_installed()?;
        match needs {
            Needs::Cluster => control_plane_binary().map(drop),
            Needs::Inventory => Ok(()),
        }
    }

    async fn bring_up(id: &str, needs: Needs) -> Result<Self> {
        let control_plane = match needs {
            Needs::Cluster => Some(control_plane_binary()?),
            Needs::Inventory => None,
        };
        let mut lab = Self::up(id, control_plane).await?;
        if needs == Needs::Inventory {
            demo::take_stock(&mut lab)?;
        }
        for index in 0..lab.edges.len() {
            if let Err(error) = lab.edges[index].start().await {
                let kept = keep_evidence(&lab, "start", &format!("{error:#}"))?;
                return Err(error).with_context(|| format!("logs: {}", kept.display()));
            }
        }
        Ok(lab)
    }

    /// Both hosts run and have told the router so.
    async fn settle(&mut self) -> Result<()> {
        for edge in &mut self.edges {
            if !edge.is_running() {
                edge.start().await?;
            }
        }
        established(self).await
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn evidence(&self) -> Vec<(String, Result<String>)> {
        let mut all: Vec<_> = self.edges.iter().flat_map(edge_evidence).collect();
        for query in ["show protocols all", "show route all"] {
            all.push((format!("birdc {query}"), self.router.query(query)));
        }
        all
    }

    async fn down(self) -> Result<()> {
        self.down().await
    }
}

/// Backends that a line begins with, by name; two on each node.
pub(crate) const BACKENDS: [&str; 4] = ["b0", "b1", "b2", "b3"];

impl Ground for Line {
    type Needs = ();

    fn possible(_: ()) -> Result<()> {
        ensure!(Path::new("/dev/net/tun").exists(), "needs /dev/net/tun, for backends of mode dsr");
        tools_are_installed()
    }

    async fn bring_up(id: &str, _: ()) -> Result<Self> {
        let mut line = Self::up(id)?;
        for (index, name) in BACKENDS.iter().enumerate() {
            line.start_backend(name, index % 2).await?;
        }
        if let Err(error) = line.edge.start().await {
            let kept = keep_evidence(&line, "start", &format!("{error:#}"))?;
            return Err(error).with_context(|| format!("logs: {}", kept.display()));
        }
        Ok(line)
    }

    /// The host runs, and has no service left from before.
    async fn settle(&mut self) -> Result<()> {
        if !self.edge.is_running() {
            self.edge.start().await?;
        }
        self.offer(&[])?;
        eventually(SOON, "the host to have no service", async || {
            let status = self.edge.status()?;
            let services = status["services"].as_array().map_or(usize::MAX, Vec::len);
            ensure!(services == 0, "{services} services are left");
            Ok(())
        })
        .await
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn evidence(&self) -> Vec<(String, Result<String>)> {
        let mut all = edge_evidence(&self.edge);
        let metrics = self.edge.fetch("/metrics").map(|(_, text)| text);
        all.push(("edge1 metrics".into(), metrics));
        all
    }

    async fn down(mut self) -> Result<()> {
        self.edge.stop().await
    }
}
