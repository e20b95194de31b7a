// Sends the microphone's sound to /live/TOKEN and shows the frames that come back: see page/stage.py.
const live = (() => {
  const HEAD = 16; // bytes of a frame's header
  const AHEAD = 0.08, MOST_AHEAD = 0.3; // seconds between a frame's arrival and its sound
  const MOST_HEARD = 180; // blocks of 128 samples that may wait to be sent: half a second
  const LISTENER = `registerProcessor("listener", class extends AudioWorkletProcessor {
    process(inputs) { if (inputs[0][0]) this.port.postMessage(inputs[0][0].slice()); return true; }
  });`;
  const times = []; // when the last frames were shown
  let taken = 0; // frames received
  let stopping = null; // ends the current talk

  const say = (words) => { document.getElementById("live-words").textContent = words; };

  function stop(words) {
    if (stopping) stopping();
    stopping = null;
    times.length = 0;
    say(words);
  }

  async function talk(token, hear) {
    stop("");
    if (!token) return say("Prepare a face first.");
    if (!navigator.mediaDevices) return say("Browsers allow the microphone only over https, or on the machine itself.");
    const ended = new AbortController(), sound = new AudioContext();
    let microphone = null;
    stopping = () => {
      ended.abort();
      if (microphone) microphone.getTracks().forEach((track) => track.stop());
      sound.close();
    };
    const mine = stopping;
    try {
      say("Opening the microphone…");
      microphone = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true } });
      if (ended.signal.aborted) return microphone.getTracks().forEach((track) => track.stop()); // Stop was pressed meanwhile
      const url = `live/${token}`;
      const answer = await fetch(`${url}?rate=${sound.sampleRate}`, { signal: ended.signal });
      if (!answer.ok) throw new Error(await answer.text());
      taken = 0;
      await listen(sound, microphone, url, ended.signal);
      await show(answer.body.getReader(), sound, hear, ended.signal);
      if (stopping === mine) stop("The session has ended.");
    } catch (problem) {
      if (stopping === mine) stop(problem.name === "NotAllowedError" ? "Access to the microphone was denied." : problem.message);
    }
  }

  async function listen(sound, microphone, url, signal) {
    await sound.audioWorklet.addModule(URL.createObjectURL(new Blob([LISTENER], { type: "text/javascript" })));
    const listener = new AudioWorkletNode(sound, "listener", { numberOfOutputs: 0 });
    sound.createMediaStreamSource(microphone).connect(listener);
    let heard = [], sending = false;
    listener.port.onmessage = async ({ data }) => {
      heard.push(data);
      if (heard.length > MOST_HEARD) heard.shift();
      if (sending || heard.length < 8) return; // 20 ms at a time; blocks that come meanwhile are sent next
      sending = true;
      const body = new Blob(heard);
      heard = [];
      await fetch(`${url}?taken=${taken}`, { method: "POST", body, signal }).catch(() => {});
      sending = false;
    };
  }

  async function show(reader, sound, hear, signal) {
    const waiting = []; // frames received but not yet shown
    let start = null, drawing = null; // the sound card's time of the session's first frame
    for await (const { time, picture, samples } of frames(reader)) {
      if (signal.aborted) return;
      taken += 1;
      if (start === null || start + time < sound.currentTime) start = sound.currentTime + AHEAD - time;
      if (hear && start + time > sound.currentTime + MOST_AHEAD) { // many came at once, and would delay all later ones
        start -= samples.length / 16000;
        continue;
      }
      if (hear) play(sound, samples, start + time);
      waiting.push({ picture, due: hear ? start + time : 0 });
      drawing ??= draw(waiting, sound, signal).finally(() => { drawing = null; });
    }
  }

  // Shows the waiting frames when they are due; skips late ones, so that a slow machine shows fewer, but in time.
  async function draw(waiting, sound, signal) {
    const canvas = document.getElementById("live-picture"), brush = canvas.getContext("2d");
    while (waiting.length && !signal.aborted) {
      while (waiting.length > 1 && waiting[1].due <= sound.currentTime) waiting.shift();
      const { picture, due } = waiting.shift();
      const drawn = await createImageBitmap(new Blob([picture], { type: "image/jpeg" }));
      await new Promise((go) => setTimeout(go, Math.max(0, (due - sound.currentTime) * 1000)));
      if (signal.aborted) return;
      if (canvas.width !== drawn.width || canvas.height !== drawn.height) {
        [canvas.width, canvas.height] = [drawn.width, drawn.height];
      }
      brush.drawImage(drawn, 0, 0);
      drawn.close();
      count();
    }
  }

  // Shows the frame rate.
  function count() {
    times.push(performance.now());
    if (times.length > 50) times.shift();
    if (times.length > 10) say(`Live: ${Math.round((times.length - 1) * 1000 / (times.at(-1) - times[0]))} frames a second`);
  }

  function play(sound, samples, when) {
    const buffer = sound.createBuffer(1, samples.length, 16000), channel = buffer.getChannelData(0);
    samples.forEach((sample, i) => { channel[i] = sample / 32768; });
    const source = sound.createBufferSource();
    source.buffer = buffer;
    source.connect(sound.destination);
    source.start(when);
  }

  async function* frames(reader) {
    let rest = new Uint8Array(0);
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      const all = new Uint8Array(rest.length + value.length);
      all.set(rest);
      all.set(value, rest.length);
      let at = 0;
      while (all.length - at >= HEAD) {
        const head = new DataView(all.buffer, at, HEAD);
        const size = head.getUint32(8, true), sound = head.getUint32(12, true), end = at + HEAD + size + sound;
        if (end > all.length) break;
        const samples = new Int16Array(all.slice(at + HEAD + size, end).buffer);
        yield { time: head.getFloat64(0, true), picture: all.slice(at + HEAD, at + HEAD + size), samples };
        at = end;
      }
      rest = all.slice(at);
    }
  }

  return { talk, stop };
})();

// A video that the browser cannot play is not an error: the server reads it, or refuses it in one sentence. For a file of
// the wrong kind, Gradio lists fifteen accepted types, but not where the file belongs.
const ANOTHER_KIND = "This kind of file belongs elsewhere: a video under Video, a picture or GIF under Photo, a sound under Sound.";
new MutationObserver(() => {
  for (const told of document.querySelectorAll(".toast-body")) {
    const all = [...told.querySelectorAll(".toast-message-item")];
    for (const item of all) if (/Invalid file type/.test(item.textContent)) item.textContent = ANOTHER_KIND;
    const ours = all.filter((item) => item.textContent.trim() !== "Video not playable");
    all.forEach((item) => { item.style.display = ours.includes(item) ? "" : "none"; });
    told.querySelectorAll(".toast-separator, .toast-count").forEach((part) => { part.style.display = "none"; });
    told.style.display = all.length && !ours.length ? "none" : "";
  }
}).observe(document.documentElement, { childList: true, subtree: true });
