//! Collection and protection of layers and images.

use crate::support::{Home, names};
use silo_store::compose::compose;
use silo_store::gc::{self, Candidate, Keeper, Object};
use silo_store::gc_roots::{self, Root, RootName};
use silo_store::{Digest, LayerId, compression, flock, layer, realisation};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

type MadeOf = BTreeMap<Digest, BTreeSet<LayerId>>;

fn keepers(home: &Home) -> Vec<Keeper> {
    let of = |(name, root): (RootName, Root)| Keeper { why: format!("{} {}", name.kind(), name.name()), root };
    gc_roots::list(&home.store).unwrap().into_iter().map(of).collect()
}

fn unneeded(home: &Home, made_of: &MadeOf) -> Vec<Candidate> {
    gc::unneeded(&home.store, &flock::exclude(&home.store).unwrap(), &keepers(home), made_of).unwrap()
}

fn things(candidates: &[Candidate]) -> BTreeSet<Object> {
    candidates.iter().map(|candidate| candidate.thing).collect()
}

fn age(home: &Home, thing: Object, secs: u64) {
    let dir = File::open(gc::place(&home.store, &thing)).unwrap();
    dir.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 - secs)).unwrap();
}

#[test]
fn only_the_unneeded_goes() {
    let home = Home::new();
    let store = &home.store;
    let contents = "x".repeat(100_000);
    let make = |name: &str| home.files(&[(name, &contents), ("d/f", name)]).id;
    let (rooted, doomed, shared): (LayerId, LayerId, LayerId) = (make("rooted"), make("doomed"), make("shared"));
    let (image, lost) = (Digest::of(b"image"), Digest::of(b"lost"));
    let permission = home.shared();
    compose(store, &permission, &[shared], &store.image(&image).join("root"), &|_| {}).unwrap();
    compose(store, &permission, &[rooted], &store.image(&lost).join("root"), &|_| {}).unwrap();
    let root = Root { images: [image].into(), layers: [rooted].into() };
    gc_roots::put(store, &permission, &RootName::new("tool", "t").unwrap(), &root).unwrap();
    let key = |n: &[u8]| Digest::of(n);
    let pairs = [(key(b"r"), rooted), (key(b"d"), doomed)];
    realisation::put_many(store, &permission, &pairs).unwrap();
    fs::write(store.realisation(&key(b"broken")), "junk").unwrap();
    fs::write(store.realisations().join(".tmp-1-1"), "junk").unwrap();
    drop(flock::build(store, &permission, &key(b"r")).unwrap());
    fs::create_dir(store.stages().join("dead")).unwrap();
    fs::set_permissions(store.tree(&doomed).join("d"), fs::Permissions::from_mode(0o500)).unwrap();
    assert!(flock::try_exclude(store).unwrap().is_none());
    drop(permission);

    let found = unneeded(&home, &BTreeMap::new());
    assert_eq!(things(&found), BTreeSet::from([Object::Image(lost), Object::Layer(doomed), Object::Layer(shared)]));
    assert_eq!(layer::list(store).unwrap().len(), 3, "marking removes nothing");

    let exclusive = flock::exclude(store).unwrap();
    let swept = gc::sweep(store, exclusive, &things(&found).into_iter().collect::<Vec<_>>()).unwrap();
    // The file of `shared` stays, because the image has it too.
    assert!((100_000..190_000).contains(&swept.bytes), "{}", swept.bytes);
    assert_eq!(swept.stages, [store.stages().join("dead")]);
    assert_eq!(layer::list(store).unwrap(), [rooted]);
    assert_eq!(names(&store.images()), [image.to_string()]);
    assert!(store.image(&image).join("root/shared").exists());
    assert_eq!(realisation::list(store).unwrap(), [key(b"r")]);
    assert_eq!(names(&store.realisations()).len(), 1);
    assert_eq!(names(&store.locks()), ["store"]);
    assert!(names(&store.stages()).is_empty());
    assert_eq!(unneeded(&home, &BTreeMap::new()), []);
}

#[test]
fn the_least_recently_used_comes_first_and_no_image_loses_a_layer() {
    let home = Home::new();
    let layer = |name: &str| home.files(&[(name, name)]).id;
    let (one, two, three) = (layer("one"), layer("two"), layer("three"));
    let (old, young) = (Digest::of(b"old"), Digest::of(b"young"));
    let made_of: MadeOf = [(old, [one, two].into()), (young, [two].into())].into();
    for image in [old, young] {
        fs::create_dir(home.store.image(&image)).unwrap();
    }
    let ages = [
        (Object::Image(old), 500),
        (Object::Image(young), 100),
        (Object::Layer(one), 900),
        (Object::Layer(two), 900),
        (Object::Layer(three), 300),
    ];
    for (thing, secs) in ages {
        age(&home, thing, secs);
    }
    let found = unneeded(&home, &made_of);
    let order: Vec<Object> = found.iter().map(|candidate| candidate.thing).collect();
    assert_eq!(order, [Object::Image(old), Object::Layer(one), Object::Layer(three), Object::Image(young), Object::Layer(two)]);
    // An image used between selection and sweep stays, with all its layers.
    age(&home, Object::Image(young), 1);
    let now = unneeded(&home, &made_of);
    assert_eq!(gc::still(&found, &now), [Object::Image(old), Object::Layer(one), Object::Layer(three)]);
}

/// A small deterministic generator, so that a failure can be reproduced.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn whatever_the_roots_are_nothing_reachable_is_removed() {
    let mut random = Random(7);
    for round in 0..40 {
        let home = Home::new();
        let store = &home.store;
        let layers: Vec<LayerId> = (0..8).map(|n| home.files(&[(&format!("f{n}"), "x")]).id).collect();
        let mut made_of = MadeOf::new();
        for n in 0..5_u32 {
            let id = Digest::of(&n.to_le_bytes());
            fs::create_dir(store.image(&id)).unwrap();
            made_of.insert(id, layers.iter().filter(|_| random.below(3) == 0).copied().collect());
        }
        let images: Vec<Digest> = made_of.keys().copied().collect();
        for id in &images {
            age(&home, Object::Image(*id), random.below(1000));
        }
        for id in &layers {
            age(&home, Object::Layer(*id), random.below(1000));
        }
        let permission = home.shared();
        for n in 0..random.below(4) {
            let image = images[usize::try_from(random.below(5)).unwrap()];
            let root = Root { images: [image].into(), layers: made_of[&image].clone() };
            gc_roots::put(store, &permission, &RootName::new("tool", &n.to_string()).unwrap(), &root).unwrap();
        }
        drop(permission);
        let found = unneeded(&home, &made_of);
        // A caller may select any prefix of the list.
        let chosen = &found[..usize::try_from(random.below(found.len() as u64 + 1)).unwrap()];
        let exclusive = flock::exclude(store).unwrap();
        gc::sweep(store, exclusive, &gc::still(chosen, &found)).unwrap();
        for keeper in keepers(&home) {
            assert!(keeper.root.images.iter().all(|id| store.image(id).exists()), "round {round}");
            assert!(keeper.root.layers.iter().all(|id| store.has(id)), "round {round}");
        }
        for (id, layers) in &made_of {
            let whole = layers.iter().all(|layer| store.has(layer));
            assert!(!store.image(id).exists() || whole, "round {round}: a kept image lost a layer");
        }
        let left = layer::list(store).unwrap().len() + gc::images(store).unwrap().len();
        assert_eq!(left, layers.len() + images.len() - chosen.len(), "round {round}");
    }
}

#[test]
fn cold_layers_come_back_as_they_were() {
    let home = Home::new();
    let store = &home.store;
    let text = "text ".repeat(20_000);
    let ids: Vec<LayerId> = (0..3).map(|n| home.files(&[(&format!("d{n}/f"), &text), ("g", &format!("{n}"))]).id).collect();
    let root = store.image(&Digest::of(b"i")).join("root");
    let permission = home.shared();
    compose(store, &permission, &ids, &root, &|_| {}).unwrap();
    for id in &ids[..2] {
        assert!(compression::pack_missing(store, &permission, id).unwrap());
        assert!(!compression::pack_missing(store, &permission, id).unwrap());
        assert!(!compression::is_cold(store, id));
    }
    // A broken archive is made again if there is a tree.
    fs::write(store.packed(&ids[0]), "junk").unwrap();
    assert!(compression::pack_missing(store, &permission, &ids[0]).unwrap());
    drop(permission);
    let exclusive = flock::exclude(store).unwrap();
    let freed = compression::cool(store, exclusive, std::slice::from_ref(&root), &ids).unwrap();
    assert!(freed >= 200_000, "{freed}");
    assert!(!root.exists() && names(&store.stages()).is_empty());
    assert!(compression::is_cold(store, &ids[0]) && compression::is_cold(store, &ids[1]));
    assert!(store.tree(&ids[2]).exists(), "a layer without an archive keeps its tree");
    let permission = home.shared();
    assert_eq!(compression::warm(store, &permission, &ids, &|_| {}).unwrap(), 2);
    assert_eq!(compression::warm(store, &permission, &ids, &|_| {}).unwrap(), 0);
    for id in &ids {
        assert_eq!(silo_store::verify::verify_layer(store, id).unwrap(), []);
        assert_eq!(store.packed(id).exists(), id != &ids[2]);
    }
    compression::drop_archives(store, &permission, &ids).unwrap();
    for id in &ids {
        assert_eq!(silo_store::verify::verify_layer(store, id).unwrap(), []);
        assert!(!store.packed(id).exists());
    }
}

#[test]
fn an_unreadable_root_stops_everything() {
    let home = Home::new();
    let made = home.files(&[("a", "x")]);
    fs::create_dir(home.store.roots().join("tool")).unwrap();
    fs::write(home.store.roots().join("tool/t"), "silo-root 9\n").unwrap();
    assert!(gc_roots::list(&home.store).is_err());
    assert!(home.store.has(&made.id));
}
