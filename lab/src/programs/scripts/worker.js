// Worker threads that allocate, compress, hash and pass buffers on; prints digests.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const crypto = require('crypto');
const zlib = require('zlib');

function work(seed, rounds) {
  const hash = crypto.createHash('sha256');
  const kept = new Map();
  let x = seed >>> 0;
  const next = () => (x = (Math.imul(x, 1664525) + 1013904223) >>> 0);
  for (let i = 0; i < rounds; i++) {
    const buffer = Buffer.alloc(1 + (next() % 200000), String(next()));
    const packed = zlib.deflateSync(buffer, { level: 3 });
    if (!zlib.inflateSync(packed).equals(buffer)) throw new Error('round trip');
    kept.set(next() % 64, packed);
    const tree = JSON.parse(JSON.stringify({ i, list: Array.from({ length: 200 }, next) }));
    hash.update(JSON.stringify(tree)).update(packed);
  }
  for (const key of [...kept.keys()].sort((a, b) => a - b)) hash.update(kept.get(key));
  return hash.digest('hex');
}

if (isMainThread) {
  const [waves, threads, rounds] = process.argv.slice(2).map(Number);
  const run = (seed) => new Promise((resolve, reject) => {
    const worker = new Worker(__filename, { workerData: { seed, rounds } });
    let answer;
    worker.on('message', ({ digest, bytes }) => {
      answer = digest + ' ' + crypto.createHash('sha1').update(new Uint8Array(bytes)).digest('hex');
    });
    worker.on('error', reject);
    worker.on('exit', () => resolve(answer));
  });
  (async () => {
    for (let wave = 0; wave < waves; wave++) {
      const seeds = Array.from({ length: threads }, (_, i) => wave * 1000 + i);
      for (const answer of await Promise.all(seeds.map(run))) console.log(answer);
    }
  })();
} else {
  const digest = work(workerData.seed, workerData.rounds);
  const bytes = new Uint8Array(300000).fill(workerData.seed).buffer;
  parentPort.postMessage({ digest, bytes }, [bytes]);
}
