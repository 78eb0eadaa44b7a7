// Pictures scaled, turned, packed and unpacked by libvips, eight at once; prints a digest of each one's pixels.
const crypto = require('crypto');
const sharp = require('sharp');

const pictures = Number(process.argv[2]);
sharp.concurrency(2);
sharp.cache(false);

function pixels(seed, width, height) {
  const data = Buffer.alloc(width * height * 3);
  let x = seed + 1;
  for (let i = 0; i < data.length; i += 3) {
    if (i % 93 === 0) x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    data[i] = x >>> 24;
    data[i + 1] = (x >>> 16) + i / 300;
    data[i + 2] = i / width;
  }
  return sharp(data, { raw: { width, height, channels: 3 } });
}

async function work(seed) {
  const hash = crypto.createHash('sha256');
  const png = await pixels(seed, 500 + 20 * (seed % 9), 400).png({ compressionLevel: 3 }).toBuffer();
  for (const width of [320, 160, 64]) {
    const small = await sharp(png).resize(width).rotate(90).blur(1 + seed % 3).jpeg({ quality: 80 }).toBuffer();
    const { data, info } = await sharp(small).greyscale().raw().toBuffer({ resolveWithObject: true });
    if (info.height !== width) throw new Error(`${info.height} instead of ${width} lines`);
    hash.update(data);
  }
  return `${seed} ${hash.digest('hex')}`;
}

(async () => {
  const answers = [];
  const next = Array.from({ length: pictures }, (_, i) => i);
  const worker = async () => {
    while (next.length > 0) {
      const seed = next.shift();
      answers[seed] = await work(seed);
    }
  };
  await Promise.all(Array.from({ length: 8 }, worker));
  console.log(answers.join('\n'));
})();
