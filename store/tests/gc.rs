//! What is collected and what is not.

use crate::support::{Home, names};
use silo_store::compose::compose;
use silo_store::roots::{self, Root, RootName};
use silo_store::{Digest, LayerId, gc, layer, lock, realisation};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

#[test]
fn only_the_unneeded_and_old_goes() {
    let home = Home::new();
    let store = &home.store;
    let contents = "x".repeat(100_000);
    let make = |name: &str| home.files(&[(name, &contents), ("d/f", name)]).id;
    let (rooted, kept, doomed, shared): (LayerId, LayerId, LayerId, LayerId) =
        (make("rooted"), make("kept"), make("doomed"), make("shared"));
    let (image, lost) = (Digest::of(b"image"), Digest::of(b"lost"));
    let permission = home.shared();
    compose(store, &permission, &[shared], &store.image(&image).join("root"), &|_| {}).unwrap();
    compose(store, &permission, &[rooted], &store.image(&lost).join("root"), &|_| {}).unwrap();
    let root = Root { images: [image].into(), layers: [rooted].into() };
    roots::put(store, &permission, &RootName::new("tool", "t").unwrap(), &root).unwrap();
    let key = |n: &[u8]| Digest::of(n);
    let pairs = [(key(b"r"), rooted), (key(b"d"), doomed), (key(b"k"), kept)];
    realisation::put_many(store, &permission, &pairs).unwrap();
    fs::write(store.realisation(&key(b"broken")), "junk").unwrap();
    fs::write(store.realisations().join(".tmp-1-1"), "junk").unwrap();
    drop(lock::build(store, &permission, &key(b"r")).unwrap());
    fs::create_dir(store.stages().join("dead")).unwrap();
    fs::set_permissions(store.tree(&doomed).join("d"), fs::Permissions::from_mode(0o500)).unwrap();
    assert!(lock::try_exclude(store).unwrap().is_none());
    drop(permission);

    let exclusive = lock::exclude(store).unwrap();
    let keep = Root { layers: [kept].into(), ..Root::default() };
    let later = SystemTime::now() + Duration::from_secs(100);
    let young = gc::plan(store, &exclusive, &keep, later, Duration::from_secs(1000)).unwrap();
    assert!(young.layers.is_empty() && young.images.is_empty());
    assert_eq!(young.realisations, [key(b"broken")]);

    let plan = gc::plan(store, &exclusive, &keep, later, Duration::from_secs(50)).unwrap();
    let mut expect = [doomed, shared];
    expect.sort();
    assert_eq!(plan.layers, expect);
    assert_eq!(plan.images, [lost]);
    // The file of `shared` stays, because the image has it too.
    assert!((100_000..190_000).contains(&plan.bytes), "{}", plan.bytes);
    assert_eq!(layer::list(store).unwrap().len(), 4, "a plan removes nothing");

    let swept = gc::sweep(store, &exclusive, &plan).unwrap();
    assert_eq!(swept.plan, plan);
    assert_eq!(swept.stages, [store.stages().join("dead")]);
    let mut expect = [rooted, kept];
    expect.sort();
    assert_eq!(layer::list(store).unwrap(), expect);
    assert_eq!(names(&store.images()), [image.to_string()]);
    assert!(store.image(&image).join("root/shared").exists());
    let mut expect = [key(b"r"), key(b"k")];
    expect.sort();
    assert_eq!(realisation::list(store).unwrap(), expect);
    assert_eq!(names(&store.realisations()).len(), 2);
    assert_eq!(names(&store.locks()), ["store"]);
    assert!(names(&store.stages()).is_empty());
    let empty = gc::plan(store, &exclusive, &keep, later, Duration::ZERO).unwrap();
    assert_eq!(empty, gc::Plan::default());
}

#[test]
fn an_unreadable_root_stops_everything() {
    let home = Home::new();
    let made = home.files(&[("a", "x")]);
    fs::create_dir(home.store.roots().join("tool")).unwrap();
    fs::write(home.store.roots().join("tool/t"), "silo-root 9\n").unwrap();
    let exclusive = lock::exclude(&home.store).unwrap();
    let later = SystemTime::now() + Duration::from_secs(100);
    assert!(gc::plan(&home.store, &exclusive, &Root::default(), later, Duration::ZERO).is_err());
    assert!(home.store.has(&made.id));
}
