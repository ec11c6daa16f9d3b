//! Where the machine's power comes from, by the kernel's table of power supplies (`Documentation/ABI/testing/sysfs-class-power`).

use crate::Root;
use dosvc_policy::{Percent, Power};
use std::path::{Path, PathBuf};

const SUPPLIES: &str = "sys/class/power_supply";

/// Mains or battery, and how full the batteries are on average. `None` for a machine without a battery of its own.
pub fn power(root: &Root) -> Option<Power> {
    let folder = Path::new(SUPPLIES);
    let supplies: Vec<PathBuf> = root
        .names(folder)
        .into_iter()
        .map(|name| folder.join(name))
        .collect();
    let value = |supply: &PathBuf, key: &str| root.value(supply.join(key));
    // Mice and headsets have batteries too.
    let is_own = |supply: &&PathBuf| value(supply, "scope").as_deref() != Some("Device");
    let is_there = |supply: &&PathBuf| value(supply, "present").as_deref() != Some("0");
    let of = |kind: &'static str| {
        let right = move |s: &&PathBuf| value(s, "type").as_deref() == Some(kind);
        supplies.iter().filter(is_own).filter(right)
    };
    let batteries: Vec<&PathBuf> = of("Battery").filter(is_there).collect();
    if batteries.is_empty() {
        return None;
    }
    let is_online = |supply: &PathBuf| value(supply, "online").is_some_and(|on| on != "0");
    let on_mains = ["Mains", "USB", "Wireless"]
        .into_iter()
        .any(|kind| of(kind).any(is_online));
    let is_discharging =
        |supply: &&PathBuf| value(supply, "status").as_deref() == Some("Discharging");
    let charges: Vec<u64> = batteries
        .iter()
        .filter_map(|supply| value(supply, "capacity")?.parse().ok())
        .collect();
    let mean = charges
        .iter()
        .sum::<u64>()
        .checked_div(u64::try_from(charges.len()).ok()?);
    Some(Power {
        // Without a word from a mains adapter, what the batteries say counts.
        on_battery: !on_mains && batteries.iter().any(is_discharging),
        charge: mean.and_then(Percent::new),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::fixture::Tree;

    fn supply(tree: &Tree, name: &str, values: &[(&str, &str)]) {
        for (key, value) in values {
            tree.write(&format!("{SUPPLIES}/{name}/{key}"), &format!("{value}\n"));
        }
    }

    fn battery(tree: &Tree, name: &str, status: &str, capacity: &str) {
        let values = [
            ("type", "Battery"),
            ("status", status),
            ("capacity", capacity),
        ];
        supply(tree, name, &values);
    }

    fn mains(tree: &Tree, online: &str) {
        supply(tree, "AC", &[("type", "Mains"), ("online", online)]);
    }

    fn found(on_battery: bool, charge: u64) -> Option<Power> {
        let charge = Percent::new(charge);
        Some(Power { on_battery, charge })
    }

    #[test]
    fn machine_without_a_battery_has_no_power_to_speak_of() {
        let tree = Tree::new(&[]);
        assert_eq!(power(&tree.root()), None);
        mains(&tree, "1");
        assert_eq!(power(&tree.root()), None);
        supply(
            &tree,
            "hidpp_battery_0",
            &[
                ("type", "Battery"),
                ("scope", "Device"),
                ("status", "Discharging"),
            ],
        );
        assert_eq!(power(&tree.root()), None, "a mouse is not the machine");
        supply(&tree, "BAT9", &[("type", "Battery"), ("present", "0")]);
        assert_eq!(power(&tree.root()), None, "an empty slot is no battery");
    }

    #[test]
    fn laptop_is_on_battery_when_its_mains_are_off() {
        let tree = Tree::new(&[]);
        mains(&tree, "0");
        battery(&tree, "BAT0", "Discharging", "37");
        assert_eq!(power(&tree.root()), found(true, 37));
        mains(&tree, "1");
        // A weak charger: the battery drains, yet the machine is plugged in.
        assert_eq!(power(&tree.root()), found(false, 37));
        battery(&tree, "BAT0", "Charging", "38");
        assert_eq!(power(&tree.root()), found(false, 38));
    }

    #[test]
    fn batteries_speak_where_nothing_says_whether_mains_are_on() {
        let tree = Tree::new(&[]);
        battery(&tree, "BAT0", "Not charging", "80");
        battery(&tree, "BAT1", "Discharging", "41");
        assert_eq!(power(&tree.root()), found(true, 60), "the mean of both");
        battery(&tree, "BAT1", "Full", "100");
        assert_eq!(power(&tree.root()), found(false, 90));
    }

    #[test]
    fn strange_values_are_not_believed() {
        let tree = Tree::new(&[]);
        mains(&tree, "0");
        battery(&tree, "BAT0", "Discharging", "many");
        let unknown = Power {
            on_battery: true,
            charge: None,
        };
        assert_eq!(power(&tree.root()), Some(unknown));
        battery(&tree, "BAT0", "Discharging", "250");
        assert_eq!(power(&tree.root()), Some(unknown));
    }
}
