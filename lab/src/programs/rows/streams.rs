//! Programs that turn one stream of bytes into another: xz, openssl, ffmpeg.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Program, digest, no_inputs, same, text};
use crate::programs::trial::{Scale, Trial};

/// xz, all threads, there and back.
pub const XZ: Program = Program {
    name: "xz",
    about: "compresses and restores with -T0, both compared",
    packages: &["xz-utils"],
    quick: true,
    timeout: Duration::from_secs(180),
    prepare: plain_text,
    run: xz,
};

fn plain_text(inputs: &Path, scale: Scale) -> Result<()> {
    Ok(fs::write(inputs.join("plain"), text(7, scale.pick(48, 8) << 20))?)
}

fn xz(trial: &mut Trial) -> Result<String> {
    let (input, plain, packed) =
        (trial.inputs.join("plain"), trial.path("plain"), trial.path("plain.xz"));
    fs::copy(&input, &plain)?;
    let blocks = "--block-size=2MiB";
    trial.run(Command::new("xz").args(["-T0", "-3", blocks]).arg(&plain))?;
    let output = digest(trial, &[&packed])?;
    trial.run(Command::new("xz").args(["-T0", "-d"]).arg(&packed))?;
    same(&input, &plain)?;
    Ok(output)
}

/// openssl: ciphers, digests, keys, certificates.
pub const OPENSSL: Program = Program {
    name: "openssl",
    about: "enc there and back, digests, RSA and EC keys, a certificate signed and verified",
    packages: &["openssl"],
    quick: false,
    timeout: Duration::from_secs(120),
    prepare: plain_text,
    run: openssl,
};

fn openssl(trial: &mut Trial) -> Result<String> {
    let plain = trial.inputs.join("plain");
    fs::copy(&plain, trial.path("plain"))?;
    let mut ssl = |line: &str| trial.run(Command::new("/usr/bin/openssl").args(line.split(' ')));
    let key = "-K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -iv 0f0e0d0c0b0a09080706050403020100";
    let mut output = String::new();
    for cipher in ["aes-256-cbc", "chacha20", "camellia-256-ctr"] {
        ssl(&format!("enc -{cipher} {key} -in plain -out {cipher}"))?;
        ssl(&format!("enc -d -{cipher} {key} -in {cipher} -out {cipher}.plain"))?;
        output += &ssl(&format!("dgst -sha256 {cipher}"))?;
    }
    for hash in ["sha512", "sha3-256", "blake2b512", "md5"] {
        output += &ssl(&format!("dgst -{hash} plain"))?;
    }
    // Keys are random: what must be equal is that each step succeeds and what it says.
    ssl("genrsa -out rsa.pem 3072")?;
    output += &ssl("rsa -check -noout -in rsa.pem")?;
    ssl("dgst -sha256 -sign rsa.pem -out signature plain")?;
    ssl("rsa -in rsa.pem -pubout -out rsa.pub")?;
    output += &ssl("dgst -sha256 -verify rsa.pub -signature signature plain")?;
    ssl("ecparam -name prime256v1 -genkey -noout -out ca.key")?;
    ssl("req -x509 -new -key ca.key -subj /CN=ca -days 10 -out ca.pem")?;
    ssl("req -new -key rsa.pem -subj /CN=leaf -out leaf.csr")?;
    ssl("x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 5 -out leaf.pem")?;
    output += &ssl("verify -CAfile ca.pem leaf.pem")?;
    for cipher in ["aes-256-cbc", "chacha20", "camellia-256-ctr"] {
        same(&plain, &trial.path(&format!("{cipher}.plain")))?;
    }
    Ok(output)
}

/// ffmpeg: encode, decode, scale.
pub const FFMPEG: Program = Program {
    name: "ffmpeg",
    about: "encodes a test picture and sound by three codecs with threads, frame digests compared",
    packages: &["ffmpeg"],
    quick: false,
    timeout: Duration::from_secs(240),
    prepare: no_inputs,
    run: ffmpeg,
};

fn ffmpeg(trial: &mut Trial) -> Result<String> {
    let seconds = trial.scale.pick(6, 2);
    let source = [
        "-f lavfi -i".to_owned(),
        format!("testsrc2=size=640x360:rate=25:duration={seconds}"),
        "-f lavfi -i".to_owned(),
        format!("sine=frequency=440:duration={seconds}"),
    ]
    .join(" ");
    let mut output = String::new();
    for (name, video, audio) in [
        ("a.mkv", "libx264 -preset fast -threads 4", "libvorbis"),
        ("b.avi", "mpeg4 -threads 4 -qscale:v 5", "libmp3lame"),
        ("c.mkv", "ffv1 -level 3 -slices 16 -threads 4", "flac"),
    ] {
        let exact = "-fflags +bitexact -flags:v +bitexact -flags:a +bitexact";
        let encode = format!("-nostdin -v error {source} -c:v {video} -c:a {audio} {exact} {name}");
        trial.run(Command::new("ffmpeg").args(encode.split(' ')))?;
        let decode = format!(
            "-nostdin -v error -threads 4 -i {name} -vf scale=320:180,hqdn3d -f framemd5 -"
        );
        output += &trial.run(Command::new("ffmpeg").args(decode.split(' ')))?;
    }
    ensure!(output.lines().count() > 150, "ffmpeg printed too few frames: {output}");
    Ok(output)
}
