// Put into the page before its own script: writes down what it hears, gets and shows. All times are Date.now() / 1000.
const measured = { onsets: [], arrived: [], drawn: [] };
window.measured = measured;

(() => {
  const received = []; // frames: bytes of their pictures, seconds of the session
  const LOUD = 0.02, QUIET = 0.4; // amplitude; seconds without any that is as loud, before an onset
  const LISTENER = `registerProcessor("onsets", class extends AudioWorkletProcessor {
    constructor() { super(); this.quiet = 0; }
    process([[samples]]) {
      for (const sample of samples ?? []) {
        if (Math.abs(sample) < ${LOUD}) this.quiet += 1 / sampleRate;
        else {
          if (this.quiet > ${QUIET}) this.port.postMessage(Date.now() / 1000);
          this.quiet = 0;
        }
      }
      return true;
    }
  });`;
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    const microphone = await open(wanted), sound = new AudioContext();
    await sound.audioWorklet.addModule(URL.createObjectURL(new Blob([LISTENER], { type: "text/javascript" })));
    const listener = new AudioWorkletNode(sound, "onsets", { numberOfOutputs: 0 });
    listener.port.onmessage = ({ data }) => measured.onsets.push(data);
    sound.createMediaStreamSource(microphone).connect(listener);
    return microphone;
  };

  const get = window.fetch;
  window.fetch = async (url, options) => {
    const answer = await get(url, options);
    if (!/^live\/.*rate=/.test(url) || !answer.ok) return answer;
    return new Response(answer.body.pipeThrough(noting()), { status: answer.status });
  };

  function noting() {
    let rest = new Uint8Array(0);
    return new TransformStream({
      transform(chunk, out) {
        out.enqueue(chunk);
        const all = new Uint8Array(rest.length + chunk.length);
        all.set(rest);
        all.set(chunk, rest.length);
        let at = 0;
        while (all.length - at >= 16) {
          const head = new DataView(all.buffer, at, 16), end = at + 16 + head.getUint32(8, true) + head.getUint32(12, true);
          if (end > all.length) break;
          measured.arrived.push([Date.now() / 1000, head.getFloat64(0, true)]);
          received.push({ bytes: head.getUint32(8, true), moment: head.getFloat64(0, true) });
          at = end;
        }
        rest = all.slice(at);
      },
    });
  }

  const decode = window.createImageBitmap;
  window.createImageBitmap = async (blob) => {
    const picture = await decode(blob);
    while (received.length && received[0].bytes !== blob.size) received.shift(); // passed over
    picture.moment = received.shift()?.moment ?? -1;
    return picture;
  };

  const draw = CanvasRenderingContext2D.prototype.drawImage;
  const mouth = new OffscreenCanvas(32, 32).getContext("2d", { willReadFrequently: true });
  let before = null;
  CanvasRenderingContext2D.prototype.drawImage = function (...all) {
    draw.apply(this, all);
    if (this.canvas.id !== "live-picture") return;
    // drawn; change of the mouth, in grey levels; on the screen; seconds of the session
    const noted = [Date.now() / 1000, 0, 0, all[0].moment];
    const { width, height } = this.canvas, [x, y, w, h] = window.mouthAt ?? [0, 0, 1, 1];
    mouth.drawImage(this.canvas, x * width, y * height, w * width, h * height, 0, 0, 32, 32);
    const { data } = mouth.getImageData(0, 0, 32, 32);
    if (before) noted[1] = data.reduce((sum, value, i) => sum + Math.abs(value - before[i]), 0) / (32 * 32 * 3);
    before = data;
    requestAnimationFrame(() => { noted[2] = Date.now() / 1000; measured.drawn.push(noted); });
  };
})();
